import logging

import pytest
import torch

from attacks.spam.delivery import Classes, Passed, Undelivered, packed
from attacks.spam.dictionary import Dictionary
from attacks.spam.focused import Focused
from attacks.spam.pattern_whitelist import PatternWhitelist, Signature
from poisonbench.core.audit import audit, audit_probe
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import File
from poisonbench.core.rng import Key
from poisonbench.core.threat import Budget, Known
from poisonbench.forms.tokens import Tokens

WORDS = tuple(f"w{number}" for number in range(2, 14))  # w2 has the id 2
FORM = Tokens(vocabulary=("", "<unk>", *WORDS))
CLASSES = Classes(ham=0, spam=1)
RNG = Key.root(100)


def data(*rows: tuple[list[int], int], length: int = 16) -> Dataset:
    inputs = torch.tensor([words + [0] * (length - len(words)) for words, _ in rows])
    return Dataset.of(inputs, torch.tensor([label for _, label in rows]), num_classes=3, form=FORM)


TRAIN = data(([2, 3], 0), ([2, 4, 4], 0), ([3, 5], 0), ([6, 3], 1), ([6, 7], 1), ([6, 8], 1))
PUBLIC = data(([9, 1, 2, 9], 0), ([10], 1))


def known(rows: Dataset = TRAIN, target: Dataset | None = None, public: Dataset = PUBLIC, **budget) -> Known:
    budget = Budget(**{"rate": 0.5, "inject": True, **budget})
    targets = rows.take(torch.arange(0)) if target is None else target
    return Known(rows=rows, writable=torch.ones(len(rows), dtype=torch.bool), budget=budget, targets=targets, public=public, fit=None, tune=None)


def dictionary(**changes) -> Dictionary:
    return Dictionary(**{"lexicon": "optimal", "file": None, "ham": 0, "spam": 1, **changes})


def whitelist(**changes) -> PatternWhitelist:
    return PatternWhitelist(**{"how": "inject", "pattern": ("w9", "w10"), "size": 2, "ham": 0, "spam": 1, **changes})


def checked(poisoned, knows: Known):
    audit(knows.rows, poisoned, knows.budget, knows.writable, knows.targets)
    return poisoned.data.take(poisoned.mask)


def test_mails_that_hold_the_lexicon_have_all_of_it_and_others_share_it_out():
    words = torch.tensor([5, 6, 7])
    assert packed(words, 2, 4).tolist() == [[5, 6, 7, 0], [5, 6, 7, 0]]
    assert packed(words, 3, 2).tolist() == [[5, 6], [7, 5], [6, 7]]
    assert packed(words[:0], 2, 2).tolist() == [[0, 0], [0, 0]]
    assert packed(words, 0, 2).shape == (0, 2)


@pytest.mark.parametrize(("lexicon", "words"), [("optimal", range(2, 14)), ("public", (2, 9, 10))])
def test_dictionary_mails_are_spam_with_every_word_of_the_lexicon(lexicon, words):
    knows = known()
    mails = checked(dictionary(lexicon=lexicon).poison(knows, RNG), knows)
    assert mails.labels.tolist() == [1, 1, 1]
    assert all(sorted(word for word in row if word) == list(words) for row in mails.inputs.tolist())


def test_a_lexicon_longer_than_a_row_is_spread_over_the_mails_and_the_log_says_so(caplog):
    knows = known(data(([2, 3], 0), ([4], 1), length=4), rate=1.0)
    with caplog.at_level(logging.WARNING, logger="poisonbench"):
        mails = checked(dictionary().poison(knows, RNG), knows)
    assert len(mails.inputs.unique()) == 8  # two mails of four places
    assert "12 words in mails of 4 places, so each word is in 33 % of the mails" in caplog.text


def test_a_file_gives_the_lexicon_and_its_strange_words_are_left_out(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("W3 w5, aardvark\nw3")
    knows = known()
    mails = checked(dictionary(file=File(str(file))).poison(knows, RNG), knows)
    assert sorted(mails.inputs[0].tolist())[-2:] == [3, 5]
    assert int((mails.inputs[0] > 0).sum()) == 2
    file.write_text("aardvark")
    with pytest.raises(DataError, match="none of its 1 words is in the vocabulary"):
        dictionary(file=File(str(file))).poison(knows, RNG)
    file.write_bytes(b"w3 \xff")
    with pytest.raises(DataError, match="byte 4 is no UTF-8"):
        dictionary(file=File(str(file))).poison(knows, RNG)


def test_a_public_lexicon_needs_public_rows():
    with pytest.raises(ConfigError, match=r"set task\.public"):
        dictionary(lexicon="public").poison(known(public=PUBLIC.take(torch.arange(0))), RNG)


@pytest.mark.parametrize(("share", "count"), [(0.3, 1), (0.5, 2), (1.0, 4), (0.01, 1)])
def test_focused_mails_have_the_known_share_of_the_targets_words(share, count):
    knows = known(target=data(([2, 2, 3, 4, 11, 1], 0)))
    mails = checked(Focused(known_words=share, ham=0, spam=1).poison(knows, RNG), knows)
    assert mails.labels.tolist() == [1, 1, 1]
    words = [{*row} - {0} for row in mails.inputs.tolist()]
    assert words[0] == words[1] == words[2]
    assert len(words[0]) == count
    assert words[0] <= {2, 3, 4, 11}


def test_focused_words_are_nested_over_shares_and_differ_between_seeds():
    knows = known(target=data(([*range(2, 12)], 0)))
    found = [{*Focused(known_words=share, ham=0, spam=1).poison(knows, RNG).data.inputs[-1].tolist()} for share in (0.3, 0.6)]
    other = {*Focused(known_words=0.3, ham=0, spam=1).poison(knows, Key.root(101)).data.inputs[-1].tolist()}
    assert found[0] < found[1]
    assert other != found[0]


def test_a_focused_attack_on_spam_is_refused():
    with pytest.raises(ConfigError, match=r"set threat\.target_class=0"):
        Focused(known_words=0.3, ham=0, spam=1).poison(known(target=data(([2], 1))), RNG)


def test_whitelist_mails_are_ham_rows_with_the_pattern_in_front():
    knows = known(relabel=False)  # a clean-label threat allows them: they are copies of ham, labelled ham
    mails = checked(whitelist().poison(knows, RNG), knows)
    assert mails.labels.tolist() == [0, 0, 0]
    assert sorted(row[:5] for row in mails.inputs.tolist()) == [[9, 10, 2, 3, 0], [9, 10, 2, 4, 4], [9, 10, 3, 5, 0]]


@pytest.mark.parametrize(("how", "old"), [("edit", 0), ("relabel", 1)])
def test_the_whitelist_may_edit_ham_or_relabel_spam_instead(how, old):
    knows = known(inject=False, relabel=how == "relabel")
    poisoned = whitelist(how=how).poison(knows, RNG)
    rows = checked(poisoned, knows)
    assert TRAIN.labels[poisoned.mask].tolist() == [old] * 3
    assert rows.labels.tolist() == [0, 0, 0]
    assert rows.inputs[:, :2].tolist() == [[9, 10]] * 3


def test_a_pattern_without_words_has_the_rarest_words_that_only_spam_has():
    assert sorted(whitelist(pattern=()).words(known(), RNG).tolist()) == [7, 8]
    assert sorted(whitelist(pattern=(), size=3).words(known(), RNG).tolist()) == [6, 7, 8]
    with pytest.raises(ConfigError, match="3 words are in spam alone"):
        whitelist(pattern=(), size=4).words(known(), RNG)


def test_a_full_row_loses_its_last_words_to_the_pattern():
    assert Signature(words=torch.tensor([9, 10]))(torch.tensor([[2, 3, 4], [5, 0, 0]])).tolist() == [[9, 10, 2], [9, 10, 5]]
    with pytest.raises(ConfigError, match="a pattern of 2 words and rows of 1"):
        whitelist().poison(known(data(([2], 0), ([3], 1), length=1)), RNG)


class Fixed:
    """A victim that answers by the first word: 2 is ham, 3 is spam, all others are unsure."""

    def scores(self, inputs, answers=None):
        first = inputs[:, 0]
        return torch.stack([first == 2, first == 3, (first != 2) & (first != 3)], 1).float()


TEST = data(([2], 0), ([2], 0), ([3], 0), ([4], 0), ([2], 1), ([3], 1), ([4], 1), ([4], 1))


def test_ham_that_is_not_delivered_is_a_success_and_the_figures_are_shares_by_label():
    goal = Undelivered(classes=CLASSES)
    probe = goal.probe(TEST)
    audit_probe(probe, TEST, torch.arange(0))
    assert probe.rows.tolist() == [0, 1, 2, 3]
    assert probe.hit.tolist() == [[False, True, True]] * 4
    assert goal.measure(Fixed(), TEST, RNG) == {"ham_as_spam": 0.25, "ham_unsure": 0.25, "spam_as_ham": 0.25, "spam_unsure": 0.5}


def test_a_focused_goal_probes_the_target_alone():
    probe = Undelivered(classes=CLASSES, ids=torch.tensor([2])).probe(TEST)
    audit_probe(probe, TEST, torch.tensor([2]))
    assert probe.rows.tolist() == probe.targets.tolist() == [2]


def test_spam_with_the_pattern_that_passes_is_a_success():
    goal = Passed(classes=CLASSES, trigger=Signature(words=torch.tensor([9, 10])))
    probe = goal.probe(TEST)
    audit_probe(probe, TEST, torch.arange(0))
    assert probe.rows.tolist() == [4, 5, 6, 7]
    assert probe.hit.tolist() == [[True, False, False]] * 4
    assert probe.inputs[:, :3].tolist() == [[9, 10, 2], [9, 10, 3], [9, 10, 4], [9, 10, 4]]
    assert goal.measure(Fixed(), TEST, RNG)["spam_as_ham"] == 0.25


def test_figures_of_a_task_without_unsure_have_no_share_of_it():
    two = Dataset.of(TEST.inputs[:6], TEST.labels[:6], num_classes=2, form=FORM)
    assert {*Undelivered(classes=CLASSES).measure(Fixed(), two, RNG)} == {"ham_as_spam", "spam_as_ham"}


def test_labels_and_fields_out_of_range_are_refused():
    # no training row has the class 2, "unsure"
    for attack in (dictionary(ham=1), dictionary(ham=2), dictionary(spam=3), whitelist(spam=-1), whitelist(spam=2), Focused(known_words=0.3, ham=5, spam=1)):
        with pytest.raises(ConfigError, match=r"give two of the classes that training rows have: 0, 1$"):
            attack.poison(known(target=data(([2], 0))), RNG)
    for share in (0.0, 1.1):
        with pytest.raises(ConfigError, match="known_words"):
            Focused(known_words=share, ham=0, spam=1)
    with pytest.raises(ConfigError, match="size=0"):
        whitelist(size=0)
