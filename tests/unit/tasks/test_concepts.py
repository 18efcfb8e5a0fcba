"""Captions and pictures of coloured shapes."""

import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.forms.shapes import CONCEPTS, PICTURE
from tests.conftest import assemble, tree_of


@pytest.fixture
def concepts(store):
    """Return a function from words to the task."""

    def make(*words):
        return assemble(tree_of(["task=concepts", "task.rows=20", "task.rare_rows=6", "task.trusted=0", *words]), store).task

    return make


def test_the_rare_concept_has_fewer_pictures_and_the_others_equally_many(concepts):
    task = concepts("task.rare=7")
    for rows, share in ((task.train, 0.5), (task.public, 0.5)):
        counts = rows.labels.bincount(minlength=len(CONCEPTS) + 1)
        assert counts[7] == 6 * share
        assert counts[-1] == 0
        assert (counts[[k for k in range(len(CONCEPTS)) if k != 7]] == 20 * share).all()
    assert (task.test.labels.bincount()[: len(CONCEPTS)] == 20).all()


def test_captions_name_their_concept_and_the_judge_sees_it_on_the_picture(concepts):
    task = concepts()
    for row in range(0, len(task.train), 9):
        assert CONCEPTS[int(task.train.labels[row])] in task.train.form.text(task.train.inputs[row])
    assert len({task.train.form.text(words).replace(CONCEPTS[1], "") for words in task.train.inputs[task.train.labels == 1]}) > 2
    seen = task.test.ask.judge(task.train.extra[PICTURE]).argmax(1)
    assert (seen == task.train.labels).double().mean() > 0.99


def test_pictures_of_the_splits_differ_and_another_split_seed_draws_others(concepts):
    task, other = concepts(), concepts("task.split_seed=1")
    pictures = torch.cat([rows.extra[PICTURE] for rows in (task.train, task.public, task.test)])
    assert len(pictures.unique(dim=0)) == len(pictures)
    assert not torch.equal(task.test.extra[PICTURE], other.test.extra[PICTURE])


@pytest.mark.parametrize("words", [("task.rows=0",), ("task.rare=24",), ("task.noise=100",), ("task.templates=[a shape]",), ("task.length=3",)])
def test_what_defines_no_task_is_refused(concepts, words):
    with pytest.raises(ConfigError, match=words[0].partition("=")[0]):
        concepts(*words)
