"""Captions and pictures of subjects in the styles of artists."""

import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.forms.shapes import COLOURS, CONCEPTS, PICTURE, ShapeJudge
from poisonbench.forms.styles import SUBJECTS
from poisonbench.tasks.styles import ARTISTS
from tests.conftest import assemble, tree_of


@pytest.fixture
def styles(store):
    """Return a function from words to the task."""

    def make(*words):
        return assemble(tree_of(["task=styles", "task.rows=40", "task.rare_rows=6", "task.trusted=0", *words]), store).task

    return make


def test_the_rare_artist_has_few_training_rows_and_as_many_public_ones_as_others(styles):
    task = styles("task.rare=2")
    assert task.train.labels.bincount().tolist() == [20, 20, 6, 20]
    assert task.public.labels.bincount().tolist() == [20] * 4
    assert task.test.labels.bincount().tolist() == [100] * 4


def test_captions_name_the_artist_and_the_subject_of_the_picture(styles):
    task = styles()
    captions = [task.train.form.text(words) for words in task.train.inputs]
    assert all(ARTISTS[label] in caption for label, caption in zip(task.train.labels.tolist(), captions, strict=True))
    assert (task.test.ask.judge(task.train.extra[PICTURE]).argmax(1) == task.train.labels).all()
    filled = (task.train.labels == 0).nonzero()[:, 0]
    seen = ShapeJudge()(task.train.extra[PICTURE][filled]).argmax(1)  # the other judge names the subject of a filled picture
    named = [next(subject for subject in SUBJECTS if subject in captions[row]) for row in filled.tolist()]
    assert sum(CONCEPTS[found] == name for found, name in zip(seen.tolist(), named, strict=True)) >= len(filled) - 1
    assert len({*named}) > len(COLOURS)


def test_pictures_of_the_splits_differ_and_another_split_seed_draws_others(styles):
    task, other = styles(), styles("task.split_seed=1")
    pictures = torch.cat([rows.extra[PICTURE] for rows in (task.train, task.public, task.test)])
    assert len(pictures.unique(dim=0)) == len(pictures)
    assert not torch.equal(task.test.extra[PICTURE], other.test.extra[PICTURE])


@pytest.mark.parametrize(
    "words", ["task.rows=0", "task.rare=4", "task.noise=100", "task.templates=[a shape by {}]", "task.templates=['a {subject}']", "task.length=3"]
)
def test_what_defines_no_task_is_refused(styles, words):
    with pytest.raises(ConfigError, match=words.partition("=")[0]):
        styles(words)
