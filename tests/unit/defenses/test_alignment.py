"""The filter of pairs that do not fit, with a judge whose cosines are known."""

import dataclasses

import pytest
import torch

from defenses.sanitize.alignment import Alignment
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.proof import needs
from poisonbench.core.rng import Key
from poisonbench.runner.metrics import filtering
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

ALIGNMENT = Alignment(judge_by="own", expected_rate=0.25, margin=1.0)


class Known:
    """A judge that finds the angle between a picture and its caption in the labels, in quarters of a right angle."""

    def embedded(self, data):
        angles = data.labels * torch.pi / 8
        return torch.tensor([[1.0, 0.0]]).repeat(len(data), 1), torch.stack([angles.cos(), angles.sin()], 1)


def rows(*labels: int) -> Dataset:
    return Dataset.of(torch.zeros(len(labels), 1), torch.tensor(labels), num_classes=9)


def judged(victim, **fields):
    asked, data, trusted = [], rows(1, 4, 0, 8), rows(0)
    means = Means(trusted=trusted, fit=lambda given, draw=0: asked.append(given) or victim, tune=None, truth=torch.zeros(0, dtype=torch.bool))
    verdict = dataclasses.replace(ALIGNMENT, **fields).judge(data, means, Key.root(0))
    return verdict, ["trusted" if given is trusted else "own" for given in asked]


def test_the_pair_with_the_smallest_cosine_is_dropped():
    verdict, asked = judged(Known())
    assert verdict.suspicion.tolist() == pytest.approx([-torch.cos(torch.tensor(torch.pi / 8)).item(), 0, -1, 1], abs=1e-6)
    assert verdict.keep.tolist() == [True, True, True, False]
    assert asked == ["own"]


class Gains:
    """A judge that finds in the labels how well the parts of a row fit each other, and has no embeddings."""

    def agreement(self, data):
        return -data.labels.float()


def test_a_judge_without_embeddings_may_say_how_well_the_parts_fit():
    verdict, _ = judged(Gains())
    assert verdict.suspicion.tolist() == [1, 4, 0, 8]
    assert verdict.keep.tolist() == [True, True, True, False]


def test_the_judge_is_trained_on_trusted_pairs_if_asked_for():
    assert judged(Known(), judge_by="trusted")[1] == ["trusted"]
    assert needs(dataclasses.replace(ALIGNMENT, judge_by="trusted")) == {"trusted"}
    assert needs(ALIGNMENT) == frozenset()


def test_a_judge_of_neither_kind_is_incompatible():
    with pytest.raises(Incompatible, match="learner=contrastive"):
        judged(object())


def test_pairs_with_wrong_captions_fit_worse_by_a_judge_that_saw_none(tiny, store):
    words = ("attack=clip_backdoor", "defense=alignment", "task.trusted=0.4", "task.limit=1000", "learner.epochs=12", "net.pictures.widths=[16,32,64]")
    assert run(tiny(*words), store).metrics["auroc_all"] > 0.75


def test_pictures_with_captions_of_another_concept_fit_worse_by_a_generator_that_saw_none(tiny, shared):
    line = Line(experiment=tiny("attack=dirty_label", "defense=alignment", "task.trusted=0.3", "threat.budget.rate=0.05"), store=shared)
    poisoned = line.strike()
    assert filtering(line.judge(poisoned), poisoned.kinds, poisoned.data.labels)["auroc_all"] > 0.85


def test_rows_with_neither_caption_nor_picture_skip_the_run(tiny, store):
    record = run(tiny("task=sentiment", "defense=alignment", "task.trusted=0.2"), store)
    assert record.status == "skipped"
    assert "caption or picture" in record.reason


def test_the_rate_to_expect_is_that_of_the_rows_within_reach(tiny):
    experiment = tiny("attack=webscale", "defense=alignment", "task.trusted=0.2", "task.domains=40", "threat.budget.rate=1.0")
    reached = experiment.threat.reach.writable(experiment.task.train, torch.zeros(0, dtype=torch.int64))
    assert 0 < int(reached.sum()) < 0.5 * len(reached)
    assert experiment.defense.sanitize.expected_rate == pytest.approx(float(reached.double().mean()))
    fewer = tiny("attack=webscale", "defense=alignment", "task.trusted=0.2", "task.domains=40", "threat.budget.rate=0.001")
    assert fewer.defense.sanitize.expected_rate == 0.001


@pytest.mark.parametrize("fields", [{"judge_by": "both"}, {"margin": -1.0}, {"expected_rate": 1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        dataclasses.replace(ALIGNMENT, **fields)
