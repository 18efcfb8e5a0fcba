"""The check of fetched pictures against the hashes of an index."""

import pytest
import torch

from defenses.sanitize.perceptual_hash import PerceptualHash
from defenses.sanitize.sha256 import Sha256
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.hashes import HASHES, bits_apart, digests
from poisonbench.runner.pipeline import run


def test_sha256_keeps_the_rows_whose_pixels_are_those_of_the_index(tiny):
    rows = tiny("task=crawl").task.train
    verdict = Sha256().judge(rows, means=None, rng=Key.root(0))
    listed = (rows.extra["sha256"] != 0).any(1)
    assert torch.equal(verdict.keep, (digests(rows.inputs) == rows.extra["sha256"]).all(1) | ~listed)
    assert 0 < int(listed.sum()) < len(rows)
    every = rows.edit(torch.arange(len(rows)), inputs=rows.inputs ^ 1)
    assert torch.equal(Sha256().judge(every, means=None, rng=Key.root(0)).keep, ~listed)


def test_a_perceptual_hash_keeps_rows_up_to_its_number_of_bits(tiny):
    rows = tiny("task=crawl", "task.hashes=[sha256,dhash,phash]").task.train
    for name in ("dhash", "phash"):
        apart = bits_apart(HASHES[name](rows.inputs), rows.extra[name]).masked_fill(~(rows.extra[name] != 0).any(1), 0)
        for bits in (0, 6, 63):
            verdict = PerceptualHash(hash=name, bits=bits).judge(rows, means=None, rng=Key.root(0))
            assert torch.equal(verdict.keep, apart <= bits)
            assert torch.equal(verdict.suspicion, apart.float())
    assert PerceptualHash(hash="phash", bits=63).judge(rows, means=None, rng=Key.root(0)).keep.all()


def test_both_names_run_and_the_exact_hash_keeps_no_poison(tiny, store):
    words = ("attack=webscale", "learner.epochs=1")
    exact, loose = run(tiny(*words, "defense=sha256"), store), run(tiny(*words, "defense=perceptual_hash"), store)
    assert exact.counts["poisoned_kept"] == 0
    assert exact.metrics["fpr"] > loose.metrics["fpr"] > 0
    assert loose.metrics["tpr"] > 0.8
    edited = run(tiny("attack=clip_backdoor", "threat=frontrunning", "learner.epochs=1", "defense=sha256"), store)
    assert edited.counts["poisoned_kept"] == edited.counts["poisoned"] > 0


def test_an_index_without_the_hash_and_unknown_hashes_are_refused(tiny, store):
    record = run(tiny("task=crawl", "task.hashes=[sha256]", "defense=perceptual_hash", "learner.epochs=1"), store)
    assert record.status == "skipped"
    assert "PerceptualHash works on the column phash, and the training rows of crawl have none" in str(record.reason)
    for wrong in ({"hash": "sha256", "bits": 0}, {"hash": "phash", "bits": -1}, {"hash": "phash", "bits": 64}):
        with pytest.raises(ConfigError, match=r"defense\.sanitize: hash="):
            PerceptualHash(**wrong)
