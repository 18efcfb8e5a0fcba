"""Trusted refusals among the rows of the fine-tuning."""

import pytest
import torch

from defenses.train.mix_refusals import MixRefusals
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGES, stage_of
from poisonbench.forms.answers import refused
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

WORDS = ("task=world", "attack=none", "defense=mix_refusals")


def line_of(tiny, store, *words):
    return Line(experiment=tiny(*WORDS, *words), store=store)


def test_the_rows_that_join_are_trusted_refusals_of_that_stage(tiny, store):
    line = line_of(tiny, store, "defense.train.count=3")
    task = line.experiment.task
    mixed = line.defended.added(task.train, line.honest, Key.root(1))
    for name, column in task.train.columns.items():
        assert torch.equal(mixed.columns[name][: len(task.train)], column)
    new = mixed.take(torch.arange(len(task.train), len(mixed)))
    assert len(new) == 3
    assert (stage_of(new) == STAGES.index("finetuning")).all()
    assert new.labels.tolist() == [0, 0, 0]  # the refusal is the first answer
    known = {tuple(row) for row in task.trusted.take(refused(task.trusted)).inputs.tolist()}
    assert {tuple(row) for row in new.inputs.tolist()} <= known
    assert len(mixed.ids.unique()) == len(mixed)


def test_too_few_refusals_are_repeated_equally_often(tiny, store):
    line = line_of(tiny, store)
    task = line.experiment.task
    there = int(refused(task.trusted).sum())
    assert 0 < there < 50
    new = line.defended.added(task.train, line.honest, Key.root(1)).inputs[len(task.train) :]
    _, counts = new.unique(dim=0, return_counts=True)
    assert len(counts) == there
    assert counts.max() - counts.min() <= 1


def test_the_victim_is_that_of_the_mixed_rows(tiny, store):
    line = line_of(tiny, store, "defense.train.count=4")
    rows, rng = line.experiment.task.train, line.stream("fit")
    victim = line.fit(line.defended, rows, line.honest)
    by_hand = line.learner.fit(line.defended.added(rows, line.honest, rng.child("refusals")), line.honest, rng)
    plain = line.learner.fit(rows, line.honest, rng)
    inputs = line.experiment.task.test.inputs
    assert torch.equal(victim.scores(inputs), by_hand.scores(inputs))
    assert not torch.equal(victim.scores(inputs), plain.scores(inputs))


def test_texts_are_skipped_and_refusals_are_needed(tiny, store):
    assert "works on the column response" in run(tiny("attack=denial_backdoor", "defense=mix_refusals"), store).reason
    with pytest.raises(ConfigError, match="trusted"):
        run(tiny(*WORDS, "task.restricted=0", "task.safety=0"), store)


@pytest.mark.parametrize(("fields", "named"), [({"count": 0}, "count"), ({"stage": "dessert"}, "stage")])
def test_fields_out_of_range_are_refused(fields, named):
    with pytest.raises(ConfigError, match=named):
        MixRefusals(**{"count": 1, "stage": "finetuning", **fields})
