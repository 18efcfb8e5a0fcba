"""Randomized ablation: the chance that a change is seen, by counting every ablation; radii by hand."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from defenses.certify import randomized_ablation as certificate
from defenses.train.randomized_ablation import AblateStep, ablated, doubled
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import Line, run

WORDS = ("defense=randomized_ablation", "defense.train.kept=6", "defense.certify.draws=400", "defense.certify.alpha=0.1")


def test_an_ablation_keeps_so_many_pixels_in_all_channels():
    pictures = doubled(torch.randint(0, 256, (50, 3, 4, 5), generator=Key.root(0).torch(), dtype=torch.uint8))
    assert (doubled(pictures[:, :3])[:, 3:] == 255 - pictures[:, :3]).all()
    left = ablated(pictures, 7, Key.root(1).torch())
    seen = (left != 0).any(1).flatten(1)
    assert (seen.sum(1) == 7).all(), "a colour and its complement are never both 0"
    assert torch.equal(left.flatten(2)[seen[:, None].expand(-1, 6, -1)], pictures.flatten(2)[seen[:, None].expand(-1, 6, -1)])
    assert len(seen.unique(dim=0)) > 40, "each picture has a draw of its own"
    often = (ablated(pictures[:1].expand(4000, -1, -1, -1), 7, Key.root(2).torch()) != 0).any(1).float().mean(0)
    torch.testing.assert_close(often, torch.full((4, 5), 7 / 20), atol=0.04, rtol=0)


@pytest.mark.parametrize(("pixels", "kept"), [(6, 2), (7, 3), (5, 5), (8, 1)])
def test_the_radius_is_that_of_counting_every_ablation(pixels, kept):
    every = list(itertools.combinations(range(pixels), kept))
    for lower in np.linspace(0, 1, 23):
        true = -1
        for changed in range(pixels + 1):
            seen = sum(any(pixel < changed for pixel in ablation) for ablation in every) / len(every)
            if lower - seen <= 0.5 + 1e-12:
                break
            true = changed
        assert int(certificate.radius(torch.tensor([lower], dtype=torch.float64), pixels, kept)[0]) == true, lower


def test_a_worked_case():
    # 784 pixels, 45 kept, p = 0.99: 8 changed pixels stay unseen with chance C(776, 45) / C(784, 45) = 0.62, 12 with 0.49
    assert int(certificate.radius(torch.tensor([0.99], dtype=torch.float64), 784, 45)[0]) == max(
        r for r in range(20) if 0.99 - (1 - math.comb(784 - r, 45) / math.comb(784, 45)) > 0.5
    )


def test_radii_follow_from_the_bound_of_scipy_on_votes_of_their_own(tiny, store):
    experiment = tiny(*WORDS, "learner.epochs=8", "defense.train.draws=50")
    line = Line(experiment=experiment, store=store)
    victim = line.fit(line.defended, experiment.task.train, line.combine(experiment.defense.aggregate), label="defended")
    rule, test = experiment.defense.certify, experiment.task.test.take(torch.arange(40))
    answers, votes = victim.scores(test.inputs).argmax(1), victim.votes(test.inputs, 400, "certificates")
    pixels = test.inputs.shape[2] * test.inputs.shape[3]
    wanted = []
    for answer, label, counts in zip(answers.tolist(), test.labels.tolist(), votes.tolist(), strict=True):
        low = binomtest(counts[answer], 400, alternative="greater").proportion_ci(1 - 0.1 / 40).low
        wanted.append(int(certificate.radius(torch.tensor([low], dtype=torch.float64), pixels, 6)[0]) if answer == label else -1)
    assert rule.certify(victim, test).tolist() == wanted
    assert len(set(wanted)) > 2


def test_no_change_within_the_radius_turns_an_answer(tiny, store):
    experiment = tiny(*WORDS, "learner.epochs=8", "defense.train.draws=200")
    line = Line(experiment=experiment, store=store)
    victim = line.fit(line.defended, experiment.task.train, line.combine(experiment.defense.aggregate), label="defended")
    test = experiment.task.test
    radii, answers = experiment.defense.certify.certify(victim, test), victim.scores(test.inputs).argmax(1)
    assert (radii >= 1).any()
    for attempt in range(5):
        changed = test.inputs.clone()
        for row, radius in enumerate(radii.tolist()):
            where = torch.randperm(64, generator=Key.root(attempt).child(str(row)).torch())[: max(radius, 0)]
            changed[row].flatten(1)[:, where] = 255 - changed[row].flatten(1)[:, where]
        assert (victim.scores(changed).argmax(1) == answers)[radii >= 1].all()


def test_the_record_says_what_is_counted_and_repeats_itself(tiny, store):
    record = run(tiny(*WORDS), store)
    assert record.metrics["radius_unit"] == "changed pixels of the test picture"
    assert record.metrics["certified"][0] > 0
    assert run(tiny(*WORDS), store).result_digest == record.result_digest  # restored from the store


def test_what_cannot_be_ablated_is_refused(tiny):
    with pytest.raises(ConfigError, match="pixels"):
        AblateStep(kept=65).check(torch.nn.Identity(), SimpleNamespace(shape=(2, 8, 8)))
    with pytest.raises(Incompatible, match="shape"):
        AblateStep(kept=1).check(torch.nn.Identity(), SimpleNamespace(shape=(12,)))
    with pytest.raises(ConfigError, match="draws=0"):
        tiny("defense=randomized_ablation", "defense.certify.draws=0")
