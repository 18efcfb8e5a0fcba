"""The kinds of poison that the table of an audit measures, and the table itself."""

import pytest
import torch

from benchmarks import _vetting
from benchmarks._vetting import FLIPS, KINDS, POISON, exact_copies, main, near_copies, swapped_captions, table, tasks
from poisonbench.config.setting import Setting
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.experiment import assemble


def rows_of(*words):
    setting = Setting.of([*words, "attack=none", "defense=none", "task.trusted=0", "seed=100"])
    return assemble(setting.tree, setting.store).task.train


@pytest.fixture(scope="module")
def digits():
    return rows_of("task=digits")


def test_exact_copies_equal_a_row_and_near_ones_do_not(digits):
    for plant, equal in ((exact_copies, True), (near_copies, False)):
        rows, poison = plant(digits, Key.root(100))
        added = rows.take(poison)
        assert len(rows) - len(digits) == int(poison.sum()) == round(0.05 * len(digits))
        assert len({*rows.ids.tolist()}) == len(rows)
        flat = digits.inputs.flatten(1).float()
        nearest = torch.cdist(added.inputs.flatten(1).float(), flat).min(1)
        assert bool((nearest.values == 0).all()) == equal
        assert not bool((nearest.values == 0).any()) or equal


def test_near_copies_of_texts_lack_their_last_word():
    texts = rows_of("task=sentiment")
    rows, poison = near_copies(texts, Key.root(100))
    words = (rows.take(poison).inputs != 0).sum(1)
    source = {tuple(text[text != 0].tolist()[:-1]) for text in texts.inputs}
    assert all(tuple(text[:count].tolist()) in source for text, count in zip(rows.take(poison).inputs, words.tolist(), strict=True))


def test_swapped_captions_are_those_of_a_row_of_another_class_and_pictures_stay():
    before = rows_of("task=crawl")
    rows, poison = swapped_captions(before, Key.root(100))
    assert int(poison.sum()) == round(0.05 * len(before))
    assert torch.equal(rows.inputs, before.inputs)
    assert (rows.labels[poison] == (before.labels[poison] + 1) % before.num_classes).all()
    known = {(label, *caption) for label, caption in zip(before.labels.tolist(), before.extra["caption"].tolist(), strict=True)}
    assert all((label, *caption) in known for label, caption in zip(rows.labels.tolist(), rows.extra["caption"].tolist(), strict=True))
    assert torch.equal(rows.extra["caption"][~poison], before.extra["caption"][~poison])


def test_every_kind_of_a_table_is_known(tmp_path):
    assert KINDS.keys() <= tasks(tmp_path).keys()
    assert {kind for kinds in KINDS.values() for kind in kinds} <= POISON.keys()
    assert {*FLIPS} <= {*KINDS["digits"]} & {*KINDS["sentiment"]}


def test_the_table_has_means_over_seeds_and_the_filter_with_the_largest():
    line = {"task": "digits", "poison": "badnets", "rows": 10, "poisoned": 1, "named": 1, "false_flags": 0.01, "found": 0.5, "joint": 0.9}
    lines = [
        {**line, "seed": 100, "filters": {"a": 0.9, "b": 0.8}},
        {**line, "seed": 101, "filters": {"a": 0.5, "b": 0.8}, "false_flags": 0.03, "joint": 0.7},
        {"task": "digits", "poison": "none", "seed": 100, "rows": 10, "poisoned": 0, "named": 1, "false_flags": 0.1},
    ]
    assert table(lines).splitlines()[2:] == ["| digits | badnets | `b` | 0.800 | 0.800 | 50.0 % | 2.0 % |", "| digits | none | | | | | 10.0 % |"]


@pytest.mark.parametrize("words", [[], ["kinds", "data", "store", "file"], ["kinds", "data", "store", "file", "x"], ["clean", "data", "store", "nonsense"]])
def test_other_words_are_one_sentence(words):
    with pytest.raises(ConfigError, match="_vetting clean DATA STORE"):
        main(words)


def test_a_kind_without_poison_reports_named_rows_and_one_with_it_auroc(tmp_path, monkeypatch):
    monkeypatch.setattr(_vetting, "suite_names", lambda: ["near_copies"])
    clean, copies = _vetting.seen(tmp_path, str(tmp_path), {"digits": ("none", "exact copies")}, [100])
    assert (clean["poisoned"], "joint" in clean) == (0, False)
    assert (copies["found"], copies["filters"]) == (1.0, {"near_copies": 1.0})
