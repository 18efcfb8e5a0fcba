import pytest

from poisonbench.config.build import build
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.plugins import OWN
from poisonbench.tasks.mails import name_of
from poisonbench.tasks.sms import Sms


def load(store, *words: str):
    return build(tree_of(["task=spam", "task.rows=60", "task.test_rows=20", *words])["task"], OWN, "task").load(store)


def sms(tmp_path, **changes) -> Sms:
    lines = [f"ham\tsee you at number {number}" for number in range(30)] + [f"spam\twin prize {number} !" for number in range(10)]
    (tmp_path / "mails.tsv").write_text("\n".join([*lines, lines[0].upper().replace("HAM", "ham")]) + "\n")
    fields = {"limit": None, "trusted": 0.0, "public": 0.0, "split_seed": 100, "test": 0.25, "length": None, "room": 0, "words": ()}
    return Sms(**fields, **{"root": str(tmp_path), "file": "mails.tsv", "balanced": False, **changes})


def test_generated_mail_is_half_spam_has_no_mail_twice_and_room_for_every_word(store):
    task = load(store)
    assert task.class_names == ("ham", "spam", "unsure")
    assert task.test.labels.bincount(minlength=3).tolist() == [10, 10, 0]
    assert len(task.train) + len(task.trusted) == 60
    used = (task.train.inputs > 0).sum(1)
    assert task.train.inputs.shape[1] - int(used.max()) >= len(task.train.form.vocabulary) - 2
    assert len(task.train.inputs.unique(dim=0)) == len(task.train)


def test_generated_mail_depends_on_the_split_seed_alone(store):
    assert load(store).digest == load(store).digest != load(store, "task.split_seed=101").digest


def test_ham_talks_about_other_things_than_spam_but_shares_words_with_it(store):
    train = load(store, "task.rows=200").train
    ham, spam = ({*train.inputs[train.labels == label].unique().tolist()} for label in (0, 1))
    assert len(ham - spam) > 20
    assert len(spam - ham) > 20
    assert len(ham & spam) > 20


@pytest.mark.parametrize("word", ["task.rows=3", "task.test_rows=1", "task.hard=1.5", "task.names=0", "task.length=0"])
def test_a_number_out_of_range_is_refused(store, word):
    with pytest.raises(ConfigError):
        load(store, word)


def test_names_are_all_different():
    assert len({name_of(number) for number in range(5000)}) == 5000
    assert (name_of(0), name_of(1), name_of(1600)) == ("ban", "bran", "banban")


def test_messages_are_read_and_a_repeated_one_is_left_out(tmp_path, store):
    task = sms(tmp_path).load(store)
    assert (task.name, len(task.train), len(task.test)) == ("sms", 30, 10)
    assert (task.train.labels.bincount(minlength=3) + task.test.labels.bincount(minlength=3)).tolist() == [30, 10, 0]
    assert task.row_names[-1] == "line 40"


def test_a_balanced_task_has_as_many_ham_as_spam(tmp_path, store):
    task = sms(tmp_path, balanced=True).load(store)
    assert task.name == "sms_balanced"
    assert (task.train.labels.bincount(minlength=3) + task.test.labels.bincount(minlength=3)).tolist() == [10, 10, 0]


def test_a_missing_file_is_refused_with_what_to_set(tmp_path, store):
    with pytest.raises(DataError, match=r"this task reads mails\.tsv, .* task\.root=PATH"):
        sms(tmp_path, root=None).load(store)
