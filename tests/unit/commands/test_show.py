"""Pictures of poisoned rows."""

import dataclasses
import re

import pytest
import torch
from matplotlib.figure import Figure

from poisonbench.cli import entry
from poisonbench.commands.show import draw
from poisonbench.core.attack import Poisoned
from poisonbench.core.goals import NoGoal


def titled(monkeypatch, tmp_path, task, poisoned):
    """Draw, and return the title of the picture."""
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: titles.append(text))
    draw(task, poisoned, "a title", tmp_path / "picture.png")
    return titles[0]


def edited(task, change):
    """The rows of a task with a black one, and the same with one of its pixels brightened by `change` grey levels."""
    rows = torch.tensor([0])
    black = torch.zeros_like(task.train.inputs[rows])
    bright = black.clone()
    bright[0, 0, 0, 0] = change
    start = task.train.edit(rows, inputs=black)
    mask = torch.zeros(len(task.train), dtype=torch.bool)
    mask[0] = True
    return start, Poisoned(data=start.edit(rows, inputs=bright), mask=mask, goal=NoGoal())


@pytest.mark.parametrize(("change", "says"), [(200, "difference"), (8, "difference x 31"), (0, "difference")])
def test_a_faint_difference_is_brightened_and_the_title_says_how_much(tiny, tmp_path, monkeypatch, change, says):
    task = tiny().task
    start, poisoned = edited(task, change)
    assert titled(monkeypatch, tmp_path, dataclasses.replace(task, train=start), poisoned) == f"a title: original, poisoned, {says}"


def fields_with_a_picture(monkeypatch, tmp_path, task, poisoned):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    draw(task, poisoned, "a title", tmp_path / "picture.png")
    return [bool(axis.images) for axis in figures[0].axes]


def added(task, origins):
    mask = torch.cat([torch.zeros(len(task.train), dtype=torch.bool), torch.ones(1, dtype=torch.bool)])
    row = task.train.take(torch.tensor([3]))
    new = row.with_columns({**row.columns, "ids": torch.tensor([-1])})
    return Poisoned(data=task.train.append(new), mask=mask, goal=NoGoal(), origins=origins)


def test_a_row_that_the_attack_added_has_no_original(tiny, tmp_path, monkeypatch):
    task = tiny().task
    assert fields_with_a_picture(monkeypatch, tmp_path, task, added(task, None)) == [False, True, False]


def test_an_added_row_stands_beside_the_row_that_it_was_made_from(tiny, tmp_path, monkeypatch):
    task = tiny().task
    assert fields_with_a_picture(monkeypatch, tmp_path, task, added(task, torch.tensor([3]))) == [True, True, True]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["attack=word_trigger", "learner=naive_bayes"], r"\{\+(cf|mn|bb|tq|mb)\+\}"),
        (["attack=label_flip", "task=breast_cancer"], r"\[(benign, was malignant|malignant, was benign)\] mean radius="),
        (["attack=pattern_whitelist", "learner=naive_bayes"], r"\[ham, added\] \{\+\w+"),
    ],
    ids=["a word", "a label", "a mail"],
)
def test_texts_and_tables_are_printed_with_what_changed(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry([*words, "threads=1"]) == 0
    (path,) = tmp_path.glob("results/records/*.json")
    capsys.readouterr()
    assert entry(["show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"8 of \d+ poisoned rows", lines[0])
    assert all(re.search(says, line) for line in lines[1:])
    assert len(lines) == 9
    assert entry(["show", str(path), "out.png"]) == 2
    assert "are no pictures and are printed; leave out.png out" in capsys.readouterr().err
