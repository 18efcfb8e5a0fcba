"""Attacks on models that make pictures from captions."""

import dataclasses

import pytest
import torch
from torch import nn

from attacks.generators.goals import OtherConcept, neighbours
from attacks.generators.nightshade import cloaked
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.shapes import CONCEPTS, PICTURE
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from tests.conftest import assemble, tree_of


class Means(nn.Module):
    """A code of two numbers: the mean grey levels of the upper and of the lower half."""

    def features(self, inputs):
        return inputs.unflatten(2, (2, -1)).mean((1, 3, 4))


def test_codes_of_cloaked_pictures_are_those_of_the_nearest_anchor_and_each_pixel_keeps_the_limit():
    pictures = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    pictures[1] += 60
    anchors = torch.tensor([[80, 110], [170, 150]], dtype=torch.uint8).repeat_interleave(2, 1)[:, None, :, None].expand(2, 3, 4, 4)
    found = cloaked(Means(), pictures, anchors, 30.0, 60)
    assert (found.int() - pictures.int()).abs().max() <= 30
    assert torch.allclose(Means().features(found.float()), Means().features(anchors.float()), atol=2)
    near = cloaked(Means(), pictures, anchors, 5.0, 60)
    assert torch.equal(near[0, 0, :, 0].int(), torch.tensor([95, 95, 105, 105]))


def test_neighbours_share_the_colour_or_the_shape(store):
    test = assemble(tree_of(["task=concepts"]), store).task.test
    named = {CONCEPTS[k] for k in neighbours(test, 0).nonzero()[:, 0].tolist()}
    assert named == {name for name in CONCEPTS if ("red" in name) != ("circle" in name)}
    assert len(named) == 8


def struck(tiny, store, *words):
    experiment = tiny(*words)
    return experiment.task, Line(experiment=experiment, store=store).struck()


def test_nightshade_keeps_captions_and_moves_codes_towards_the_anchor(tiny, shared):
    task, poisoned = struck(tiny, shared, "attack=nightshade", "threat.budget.count=9", "threat.budget.limit=32", "attack.data.steps=20")
    new, old = poisoned.data.take(torch.arange(len(task.train), len(poisoned.data))), task.train.take(poisoned.origins)
    assert len(new) == 9
    assert torch.equal(new.inputs, old.inputs)
    assert (new.labels == 0).all()
    moves = (new.extra[PICTURE].int() - old.extra[PICTURE].int()).abs()
    assert 16 < moves.max() <= 32
    line = Line(experiment=tiny("attack=nightshade"), store=shared)
    victim = line.known().fit(task.train)
    before, after, anchors = (
        victim.extractor.features(pictures) for pictures in (old.extra[PICTURE], new.extra[PICTURE], task.train.extra[PICTURE][task.train.labels == 8])
    )
    gaps = [torch.cdist(codes, anchors).amin(1).mean() for codes in (after, before)]
    assert gaps[0] < 0.8 * gaps[1]


def test_without_new_rows_the_rows_of_the_concept_are_changed(tiny, shared):
    words = ("attack=random_noise", "threat.budget.count=4", "threat.budget.inject=false", "threat.budget.limit=10")
    task, poisoned = struck(tiny, shared, *words)
    assert len(poisoned.data) == len(task.train)
    assert int(poisoned.mask.sum()) == 4
    assert (task.train.labels[poisoned.mask] == 0).all()
    moves = (poisoned.data.extra[PICTURE].int() - task.train.extra[PICTURE].int())[poisoned.mask].abs()
    assert (moves == 10).double().mean() > 0.95  # but for pixels near 0 or 255


def test_dirty_labels_are_pictures_of_the_anchor_with_captions_of_the_concept(tiny, shared):
    task, poisoned = struck(tiny, shared, "attack=dirty_label", "threat.budget.count=5")
    new = poisoned.data.take(poisoned.mask)
    assert (task.test.ask.judge(new.extra[PICTURE]).argmax(1) == 8).all()
    assert all("red circle" in task.train.form.text(words) for words in new.inputs)
    assert (new.labels == 0).all()


def test_the_figures_of_the_goal_are_shares_of_the_samples(tiny, shared):
    task, _ = struck(tiny, shared, "attack=dirty_label", "threat.budget.count=5")
    shown = task.train.extra[PICTURE][[int((task.train.labels == k).nonzero()[0]) for k in range(24)]]
    test = task.test

    class Perfect:
        def sample(self, inputs, rng):
            return shown[torch.where(test.labels == 0, 8, test.labels)]  # the anchor for the concept, and all else right

    pictures = dict(pictures=shown[:2], clean=shown[:10], truth=torch.arange(10))
    goal = OtherConcept(concept=0, anchor=8, shown=0, limit=16.0, **pictures)
    figures = goal.measure(Perfect(), test, Key.root(100))
    assert figures == dict(kept=0.0, anchored=1.0, neighbours=1.0, others=1.0, judge_preserved=0.5, judge_right=1.0, judge_right_noise=1.0)
    assert goal.measure(object(), test, Key.root(100)) == {}


def test_settings_that_fit_nothing_are_refused_and_a_form_without_pictures_is_skipped(tiny, shared):
    with pytest.raises(ConfigError, match="two different concepts"):
        tiny("attack=nightshade", "attack.data.anchor=0")
    with pytest.raises(ConfigError, match=r"attack\.data\.steps=0"):
        tiny("attack=nightshade", "attack.data.steps=0")
    for words, says in ((("threat=mislabelled", "threat.budget.count=5"), "threat=cloaked"), (("attack.data.anchor=24",), "anchor=24")):
        with pytest.raises(ConfigError, match=says):
            struck(tiny, shared, "attack=nightshade", *words)
    plain = assemble(tree_of(["attack=dirty_label", "task=sentiment", "learner=text", "task.rows=100", "threads=1"]), shared)
    assert run(plain, shared).status == "skipped"
    with pytest.raises(ConfigError, match=r"norm=tokens2: changes of tokens and pixels are measured by tokens or linf or l2 or pixels"):
        run(tiny("attack=nightshade", "threat.budget.norm=tokens2"), shared)


def test_the_goal_is_a_value(tiny, shared):
    _, poisoned = struck(tiny, shared, "attack=dirty_label", "threat.budget.count=5")
    assert dataclasses.is_dataclass(poisoned.goal)
    assert poisoned.goal.limit == 0.0
