import json
from pathlib import Path

import pytest

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.retrieve import fingerprints
from poisonbench.tasks.poisonedrag import PoisonedRag

ENTRIES = {
    f"test{number}": {
        "id": f"test{number}",
        "question": f"how many moons has planet x{number}",
        "correct answer": f"{number} moons",
        "incorrect answer": "no moon",
        "adv_texts": [f"Planet x{number} has no moon.", f"No moon was found at planet x{number}."],
    }
    for number in range(10)
}


def nq(root: Path, **changes) -> PoisonedRag:
    fields = {"trusted": 0.0, "public": 0.0, "split_seed": 100, "duplicates": "refuse", "length": None, "room": 2, "words": ()}
    return PoisonedRag(**{**fields, "root": str(root), "file": "nq.json", "corpus": None, "gold": 2, "overlap": 0.5, **changes})


def written(root: Path, entries=ENTRIES) -> Path:
    (root / "nq.json").write_text(json.dumps(entries, indent=4))
    return root


def texts(task, rows) -> list[str]:
    return [task.train.form.text(row) for row in rows]


def test_questions_answers_and_claims_are_those_of_the_file(tmp_path, store):
    task = nq(written(tmp_path)).load(store)
    assert texts(task, task.test.inputs) == [f"how many moons has planet x{number}" for number in range(10)]
    answers = [texts(task, row) for row in task.test.ask.table[task.test.ask.of]]
    assert [row[label] for row, label in zip(answers, task.test.labels.tolist(), strict=True)] == [f"{number} moons" for number in range(10)]
    assert [row[wish] for row, wish in zip(answers, task.test.extra["wish"].tolist(), strict=True)] == ["no moon"] * 10
    assert {*task.test.labels.tolist()} == {1, 2}
    assert texts(task, task.test.extra["claims"][3]) == ["planet x3 has no moon .", "no moon was found at planet x3 ."]


def test_the_generated_passages_have_the_right_answer_and_words_of_the_question(tmp_path, store):
    task = nq(written(tmp_path)).load(store)
    assert len(task.train) == 20
    found = dict(zip(fingerprints(task.train.inputs).tolist(), texts(task, task.train.inputs), strict=True))
    for number, gold in enumerate(task.test.extra["gold"].tolist()):
        for mark in gold:
            assert f"{number} moons" in found[mark]
            assert {*found[mark].split()} & {"how", "many", "has", "planet", f"x{number}"} or "moons" in found[mark]
    whole = nq(tmp_path, overlap=1.0).load(store)
    assert all("how many moons has planet x" in text for text in texts(whole, whole.train.inputs))


def test_passages_depend_on_the_split_seed_alone(tmp_path, store):
    written(tmp_path)
    assert nq(tmp_path).load(store).digest == nq(tmp_path).load(store).digest != nq(tmp_path, split_seed=101).load(store).digest


def test_trusted_and_public_rows_are_the_passages_of_questions_that_are_left_out(tmp_path, store):
    task = nq(written(tmp_path), trusted=0.2, public=0.1).load(store)
    assert (len(task.test), len(task.train), len(task.trusted), len(task.public)) == (7, 14, 4, 2)
    asked = {*texts(task, task.test.inputs)}
    left = [*texts(task, task.trusted.extra["question"]), *texts(task, task.public.extra["question"])]
    assert len({*left}) == 3
    assert not asked & {*left}
    assert {*task.test.extra["gold"].flatten().tolist()} == {*fingerprints(task.train.inputs).tolist()}
    with pytest.raises(ConfigError, match="the passages of 10 of 10 questions, which leaves no question; lower the shares"):
        nq(tmp_path, trusted=0.45, public=0.46).load(store)


def test_with_a_corpus_all_questions_are_asked_and_spare_rows_are_from_the_corpus(tmp_path, store):
    (written(tmp_path) / "corpus.jsonl").write_text("".join(json.dumps({"_id": f"d{number}", "text": f"star {number}"}) + "\n" for number in range(20)))
    task = nq(tmp_path, corpus=str(tmp_path), trusted=0.25).load(store)
    assert (len(task.test), len(task.train), len(task.trusted)) == (10, 30, 10)
    assert all(text.startswith("star") for text in texts(task, task.trusted.inputs))


def test_fields_out_of_range_are_refused(tmp_path):
    for changes in ({"gold": 0}, {"gold": 6}, {"overlap": 1.1}):
        with pytest.raises(ConfigError, match="task"):
            nq(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"question": " "}, ", line 12: the entry has no question; give a text with at least one word"),
        ({"correct answer": None}, ", line 12: the entry has no correct answer; give a text with at least one word"),
        ({"incorrect answer": 3}, ", line 12: the entry has no incorrect answer; give a text with at least one word"),
        ({"incorrect answer": "1 MOONS"}, ", line 12: correct answer and incorrect answer are both '1 moons'; give different ones"),
        ({"adv_texts": []}, ", line 12: the entry has no adv_texts; give a list of one or more texts, each with at least one word"),
        ({"adv_texts": ["a", ""]}, ", line 12: the entry has no adv_texts; give a list of one or more texts, each with at least one word"),
        ({"question": "How many moons has planet x0"}, ", line 12: the question has the words of that in line 2; remove one of them"),
    ],
)
def test_a_wrong_entry_is_refused_with_the_file_and_the_line(tmp_path, store, changes, says):
    written(tmp_path, {**ENTRIES, "test1": {**ENTRIES["test1"], **changes}})
    with pytest.raises(DataError) as caught:
        nq(tmp_path).load(store)
    assert str(caught.value) == f"{tmp_path / 'nq.json'}{says}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[]", " is no JSON object with one entry per question; give a file of PoisonedRAG, such as nq.json"),
        (b"{}", " is no JSON object with one entry per question; give a file of PoisonedRAG, such as nq.json"),
        (b'{\n"a": 3}', ", line 2: the entry is no JSON object; write question, correct answer, incorrect answer and adv_texts"),
        (b'{\n"a": \xff}', ", line 2: byte 6 is no UTF-8; save the file as UTF-8"),
        (b'{"a": {}, "a": {}}', " cannot be read as JSON (the name 'a' is there twice); correct it"),
        (b'{\n"a" 3}', " cannot be read as JSON (Expecting ':' delimiter: line 2 column 5 (char 6)); correct it"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, store, content, says):
    (tmp_path / "nq.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        nq(tmp_path).load(store)
    assert str(caught.value) == f"{tmp_path / 'nq.json'}{says}"
