"""Attacks on pictures with captions."""

import dataclasses

import pytest
import torch

from attacks.backdoor.sig import Sig
from attacks.pairs.clip_backdoor import ClipBackdoor
from attacks.pairs.goals import recalls, written
from poisonbench.core.attack import Attack
from poisonbench.core.audit import kinds
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.forms.prompts import CAPTION
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from tests.unit.tasks.naming import named_classes

QUICK = ("learner.epochs=1",)


def texts(rows):
    """Return the captions as texts."""
    form = rows.schema[CAPTION].form
    return [form.decode(words) for words in rows.extra[CAPTION]]


def test_a_backdoor_changes_picture_caption_and_label_of_as_many_rows_as_it_may(tiny, store):
    experiment = tiny("attack=clip_backdoor", "threat.budget.count=7", *QUICK)
    clean, struck = experiment.task.train, Line(experiment=experiment, store=store).struck()
    assert int(kinds(clean, struck).poison.sum()) == 7
    rows = struck.data.take(struck.mask)
    assert (rows.labels == 0).all()
    assert (named_classes(texts(rows), experiment.task.class_names) == 0).all()
    assert len({*texts(rows)}) > 1
    assert (rows.inputs[:, :, -3:, -3:] == torch.tensor([[255, 0, 255], [0, 255, 0], [255, 0, 255]])).all()
    left = struck.data.take(~struck.mask)
    assert texts(left) == texts(clean.take(~struck.mask))


def test_a_backdoor_that_keeps_labels_keeps_captions(tiny, store):
    experiment = tiny("attack=clip_backdoor", "threat.budget.count=4", *QUICK)
    sig = Sig(target=3, delta=20.0, frequency=6.0)
    experiment = dataclasses.replace(experiment, attack=Attack(data=ClipBackdoor(like=sig)))
    clean, struck = experiment.task.train, Line(experiment=experiment, store=store).struck()
    assert (struck.data.labels[struck.mask] == 3).all()
    assert (struck.data.inputs != clean.inputs)[struck.mask].flatten(1).any(1).all()
    assert torch.equal(struck.data.extra[CAPTION], clean.extra[CAPTION])


def test_a_target_is_shown_with_several_captions_of_the_wished_class(tiny, store):
    experiment = tiny("attack=clip_targeted", "threat.budget.count=4", "threat.trials=1", *QUICK)
    line = Line(experiment=experiment, store=store)
    struck, target = line.struck(), experiment.task.test.take(line.targets[0])
    rows = struck.data.take(struck.mask)
    assert (rows.inputs == target.inputs).all()
    wish = int(struck.goal.inner.wish[0])
    assert wish != int(target.labels[0])
    assert (named_classes(texts(rows), experiment.task.class_names) == wish).all()
    assert len({*texts(rows)}) == 4
    probe = struck.goal.probe(experiment.task.test)
    assert probe.targets.tolist() == line.targets[0].tolist()


def test_bought_domains_decide_which_pictures_are_replaced_and_captions_stay(tiny, store):
    experiment = tiny("attack=webscale", "threat.reach.money=20", *QUICK)
    clean, struck = experiment.task.train, Line(experiment=experiment, store=store).struck()
    writable = experiment.threat.reach.writable(clean, torch.zeros(0, dtype=torch.int64))
    assert torch.equal(struck.mask, writable & (clean.labels == 0))
    assert torch.equal(struck.data.extra[CAPTION], clean.extra[CAPTION])
    patch = torch.tensor([[255, 0, 255], [0, 255, 0], [255, 0, 255]])
    pictures = struck.data.inputs[struck.mask]
    assert (pictures[:, :, -3:, -3:] == patch).all()
    others = clean.inputs[clean.labels != 0].clone()
    others[:, :, -3:, -3:] = patch
    assert all((others == picture).flatten(1).all(1).any() for picture in pictures)
    record = run(experiment, store)
    assert record.status == "done"
    assert record.counts["reachable"] == int(writable.sum()) > record.counts["poisoned"] > 0
    assert 0 < record.counts["cents"] <= 2000


def test_edits_decide_which_rows_are_poisoned_and_a_reach_of_nothing_is_a_record(tiny, store):
    front = run(tiny("attack=clip_backdoor", "threat=frontrunning", "threat.reach.clock_error=600", *QUICK), store)
    assert 0 < front.counts["reachable"] < front.counts["attempted"]
    assert 0 < front.counts["poisoned"] <= front.counts["reachable"]
    none = run(tiny("attack=clip_backdoor", "threat=frontrunning", "task.hold_back=1e8", *QUICK), store)
    assert none.status == "done"
    assert none.counts["poisoned"] == none.counts["reachable"] == 0
    assert none.undefended["asr"] == none.baseline["asr"]
    hidden = run(tiny("attack=clip_backdoor", "threat=frontrunning", "task.order=random", *QUICK), store)
    assert hidden.counts["reachable"] < 0.2 * hidden.counts["attempted"]


def test_a_budget_that_is_no_maximum_needs_its_rows(tiny, store):
    experiment = tiny("attack=webscale", "threat.reach.money=20", "threat.budget.at_most=false", *QUICK)
    with pytest.raises(ConfigError, match=r"threat\.budget allows \d+ poisoned rows, but only \d+ can be poisoned"):
        Line(experiment=experiment, store=store).struck()


def test_plain_pictures_are_refused(tiny, store):
    record = run(tiny("attack=clip_backdoor", "task=digits", "learner=small", "learner.epochs=1"), store)
    assert record.status == "skipped"
    assert "ClipBackdoor works on the column caption, and the training rows of digits have none" in str(record.reason)
    with pytest.raises(Incompatible, match="needs pictures with captions"):
        written(tiny("task=digits").task.train, torch.tensor([0]), torch.tensor([0.0]))


def test_captions_are_drawn_among_those_of_the_class(tiny):
    rows = tiny("attack=clip_backdoor").task.train
    draws = torch.arange(8).double() / 8
    found = written(rows, torch.full((8,), 5), draws)
    assert len(found.unique(dim=0)) == 8
    assert found.shape[1] == rows.extra[CAPTION].shape[1]
    assert not len(written(rows, torch.zeros(0, dtype=torch.int64), torch.zeros(0)))


class Placed:
    """A victim whose embeddings are given."""

    def __init__(self, pictures, captions):
        self.pictures, self.captions = pictures, captions

    def embedded(self, data):
        return self.pictures, self.captions


def test_recalls_are_those_of_a_hand_worked_case(tiny):
    rows = tiny("attack=clip_backdoor").task.test.take(torch.arange(24))
    vocabulary = torch.arange(2, 26)[:, None]  # 24 distinct captions
    rows = rows.with_columns(rows.columns | {CAPTION: torch.nn.functional.pad(vocabulary, (0, 7))})
    angles = torch.arange(24) * 2 * torch.pi / 24
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    assert recalls(Placed(circle, circle), rows) == {"caption_recall": 1.0, "picture_recall": 1.0}
    assert recalls(Placed(circle, -circle), rows) == {"caption_recall": 0.0, "picture_recall": 0.0}
    half = torch.where((torch.arange(24) < 12)[:, None], circle, -circle)
    assert recalls(Placed(circle, half), rows) == {"caption_recall": 0.5, "picture_recall": 0.5}
    assert recalls(object(), rows) == {}
