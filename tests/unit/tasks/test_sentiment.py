import dataclasses

import pytest
import torch

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.tasks.sentiment import ADJECTIVES, VERBS, Sentiment
from poisonbench.tasks.sst2 import Sst2

COMMON = {"limit": None, "trusted": 0.0, "public": 0.0, "split_seed": 100, "length": None, "room": 4, "words": ("cf",)}
PLAIN = Sentiment(**COMMON, rows=400, test_rows=100, negated=0.0, mixed=0.0, noise=0.0)


def by_count(task) -> torch.Tensor:
    """Return the share of training rows on whose label the words of opinions agree, each counted with its own tone."""
    form = task.train.form
    tones = [form.ids([*ADJECTIVES[tone].split(), *VERBS[tone].split()]) for tone in (0, 1)]
    known = torch.zeros(len(form.vocabulary))
    for tone, ids in enumerate(tones):
        known[ids] = 2.0 * tone - 1
    answers = (known[task.train.inputs].sum(1) > 0).long()
    return (answers == task.train.labels).float().mean()


def test_without_negation_and_noise_a_count_of_words_is_always_right(store):
    assert by_count(dataclasses.replace(PLAIN, rows=2000).load(store)) == 1


def test_negations_turn_the_words_of_an_opinion(store):
    assert by_count(dataclasses.replace(PLAIN, rows=2000, negated=1.0).load(store)) == 0


def test_a_share_of_the_labels_is_wrong(store):
    assert abs(by_count(dataclasses.replace(PLAIN, rows=2000, noise=0.1).load(store)) - 0.9) < 0.02


def test_one_of_three_opinions_of_the_other_tone_leaves_the_majority(store):
    assert by_count(dataclasses.replace(PLAIN, rows=2000, mixed=1.0).load(store)) == 1


def test_texts_are_different_balanced_and_end_in_free_places(store):
    task = PLAIN.load(store)
    both = torch.cat([task.train.inputs, task.test.inputs])
    assert len(both.unique(dim=0)) == 500
    assert task.train.labels.bincount().tolist() == [200, 200]
    assert not both[:, -4:].any()
    assert "cf" in task.train.form.vocabulary


def test_the_split_seed_decides_the_texts(store):
    assert PLAIN.load(store).digest == PLAIN.load(store).digest != dataclasses.replace(PLAIN, split_seed=101).load(store).digest


@pytest.mark.parametrize("change", [{"rows": 1}, {"negated": 1.1}, {"mixed": -0.1}, {"noise": 0.5}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(PLAIN, **change)


def test_sst2_reads_both_files_of_its_folder(store, tmp_path):
    (tmp_path / "sst2_train.tsv").write_text("sentence\tlabel\na fine film .\t1\na dull film .\t0\n", encoding="utf-8")
    (tmp_path / "sst2_test.tsv").write_text("sentence\tlabel\nnot fine .\t0\ncrème brûlée\t1\n", encoding="utf-8")
    task = Sst2(**COMMON, root=str(tmp_path)).load(store)
    assert [task.train.form.decode(row) for row in task.train.inputs] == ["a fine film .", "a dull film ."]
    assert [task.test.form.decode(row) for row in task.test.inputs] == ["not fine .", "crème brûlée"]
    assert task.train.labels.tolist() == [1, 0]
    assert task.class_names == ("negative", "positive")


def test_sst2_without_its_files_says_what_to_set(store, tmp_path):
    for root in (None, str(tmp_path)):
        with pytest.raises(DataError, match=r"task\.root"):
            Sst2(**COMMON, root=root).load(store)
