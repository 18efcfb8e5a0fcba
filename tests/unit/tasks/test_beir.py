import json
import logging
from pathlib import Path

import pytest

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.retrieve import fingerprints
from poisonbench.tasks.beir import Beir

CORPUS = [{"_id": f"d{number}", "title": f"planet {number}", "text": f"it has {number} moons"} for number in range(8)]
QUERIES = [
    {"_id": "q1", "text": "how many moons has planet 1", "answer": "1", "wrong_answers": ["5", "6"], "claims": ["planet 1 has 5 moons"]},
    {
        "_id": "q2",
        "text": "which planet has 2 moons",
        "answer": "planet 2",
        "wrong_answers": ["planet 7"],
        "claims": ["planet 7 has 2 moons", "look at planet 7"],
    },
    {"_id": "q3", "text": "of another split"},
]
HEADER = "query-id\tcorpus-id\tscore"
QRELS = [HEADER, "q1\td1\t1", "q2\td2\t2", "q2\td3\t1", "q1\td0\t0"]


def beir(root: Path, **changes) -> Beir:
    fields = {"trusted": 0.0, "public": 0.0, "split_seed": 100, "duplicates": "refuse", "length": None, "room": 2, "words": ()}
    return Beir(**{**fields, "root": str(root), "split": "test", **changes})


def folder(root: Path, corpus=CORPUS, queries=QUERIES, qrels=QRELS) -> Path:
    (root / "qrels").mkdir()
    for name, rows in {"corpus.jsonl": corpus, "queries.jsonl": queries}.items():
        (root / name).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    (root / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n")
    return root


def texts(task, rows) -> list[str]:
    return [task.train.form.text(row) for row in rows]


def test_the_passages_are_title_and_text_and_the_questions_those_of_the_table(tmp_path, store, caplog):
    with caplog.at_level(logging.WARNING, logger="poisonbench"):
        task = beir(folder(tmp_path)).load(store)
    assert task.name == tmp_path.name
    assert texts(task, task.train.inputs)[:2] == ["planet 0 it has 0 moons", "planet 1 it has 1 moons"]
    assert texts(task, task.test.inputs) == ["how many moons has planet 1", "which planet has 2 moons"]
    assert task.row_names[3] == "corpus.jsonl, line 4"
    assert "1 of 2 questions have more than 1 wrong answers, and only the first 1 are used" in caplog.text


def test_gold_wish_and_claims_are_those_of_the_files(tmp_path, store):
    task = beir(folder(tmp_path)).load(store)
    marks = fingerprints(task.train.inputs).tolist()
    assert task.test.extra["gold"].tolist() == [[marks[1], 0], sorted(marks[2:4])]
    answers = [texts(task, row) for row in task.test.ask.table[task.test.ask.of]]
    assert [row[label] for row, label in zip(answers, task.test.labels.tolist(), strict=True)] == ["1", "planet 2"]
    assert [row[wish] for row, wish in zip(answers, task.test.extra["wish"].tolist(), strict=True)] == ["5", "planet 7"]
    assert [row[0] for row in answers] == ["", ""]
    assert [texts(task, row) for row in task.test.extra["claims"]] == [["planet 1 has 5 moons", ""], ["planet 7 has 2 moons", "look at planet 7"]]


def test_trusted_and_public_passages_answer_no_question_and_leave_the_index(tmp_path, store):
    task = beir(folder(tmp_path), trusted=0.25, public=0.25).load(store)
    assert (len(task.train), len(task.trusted), len(task.public)) == (4, 2, 2)
    assert {*fingerprints(task.train.inputs).tolist()} >= {mark for mark in task.test.extra["gold"].flatten().tolist() if mark}
    assert texts(task, task.trusted.extra["question"]) == ["", ""]
    with pytest.raises(ConfigError, match="6 of 8 passages, and 5 answer no question"):
        beir(tmp_path, trusted=0.75).load(store)


def changed(rows, place, **fields):
    row = {name: value for name, value in {**rows[place], **fields}.items() if value is not None}
    return [*rows[:place], row, *rows[place + 1 :]]


@pytest.mark.parametrize(
    ("files", "name", "says"),
    [
        ({"corpus": changed(CORPUS, 2, _id="d0")}, "corpus.jsonl", ", line 3: the id 'd0' is that of corpus.jsonl, line 1 too; give each line its own id"),
        ({"corpus": changed(CORPUS, 1, title="", text=" ")}, "corpus.jsonl", ", line 2: the passage has no word; correct or remove the line"),
        ({"corpus": changed(CORPUS, 1, title=None, text=None)}, "corpus.jsonl", ", line 2: the passage has no word; correct or remove the line"),
        ({"corpus": changed(CORPUS, 1, _id=7)}, "corpus.jsonl", ", line 2: '_id' is a number; give a text with at least one word"),
        ({"corpus": ["3"]}, "corpus.jsonl", ", line 1: the line is a number and no JSON object; write each row as {...} on a line of its own"),
        ({"corpus": ['{"_id": "a", "_id": "b"}']}, "corpus.jsonl", ", line 1 cannot be read as JSON (the name '_id' is there twice); correct it"),
        (
            {"corpus": [*CORPUS, "{'_id': 1}"]},
            "corpus.jsonl",
            ", line 9 cannot be read as JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); correct it",
        ),
        ({"queries": changed(QUERIES, 1, _id="q1")}, "queries.jsonl", ", line 2: the id 'q1' is that of queries.jsonl, line 1 too; give each line its own id"),
        ({"queries": changed(QUERIES, 1, answer=None)}, "queries.jsonl", ", line 2: 'answer' is missing; give a text with at least one word"),
        ({"queries": changed(QUERIES, 1, answer=" ")}, "queries.jsonl", ", line 2: 'answer' is a text without a word; give a text with at least one word"),
        ({"queries": changed(QUERIES, 0, text=None)}, "queries.jsonl", ", line 1: 'text' is missing; give a text with at least one word"),
        (
            {"queries": changed(QUERIES, 1, wrong_answers=None)},
            "queries.jsonl",
            ", line 2: 'wrong_answers' is missing; give a list of one or more texts, each with at least one word",
        ),
        (
            {"queries": changed(QUERIES, 1, claims=[])},
            "queries.jsonl",
            ", line 2: 'claims' is an empty list; give a list of one or more texts, each with at least one word",
        ),
        ({"queries": changed(QUERIES, 0, wrong_answers=["5", " 5"])}, "queries.jsonl", ", line 1: 'wrong_answers' has ' 5' twice; remove one of them"),
        (
            {"queries": changed(QUERIES, 1, wrong_answers=["Planet 2"])},
            "queries.jsonl",
            ", line 2: 'wrong_answers' has the right answer 'Planet 2'; remove it there",
        ),
        ({"qrels": [*QRELS, "q9\td1\t1"]}, "qrels/test.tsv", ", line 6: no line of queries.jsonl has the id 'q9'; correct or remove the line"),
        ({"qrels": [*QRELS, "q1\td9\t1"]}, "qrels/test.tsv", ", line 6: no line of corpus.jsonl has the id 'd9'; correct or remove the line"),
        ({"qrels": [HEADER]}, "qrels/test.tsv", " names no passage that answers a question; add lines with a score of 1 or more"),
        ({"qrels": [HEADER, "q1\td1\t0"]}, "qrels/test.tsv", " names no passage that answers a question; add lines with a score of 1 or more"),
        (
            {"qrels": [HEADER, "q1 d1 1"]},
            "qrels/test.tsv",
            ", line 2: 'q1 d1 1' is not query-id<TAB>corpus-id<TAB>score with a whole number as score; correct or remove the line",
        ),
        (
            {"qrels": [HEADER, "q1\td1\tyes"]},
            "qrels/test.tsv",
            r", line 2: 'q1\td1\tyes' is not query-id<TAB>corpus-id<TAB>score with a whole number as score; correct or remove the line",
        ),
        ({"qrels": QRELS[1:]}, "qrels/test.tsv", r", line 1: the header is 'q1\td1\t1'; write query-id<TAB>corpus-id<TAB>score"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence_with_its_name_and_the_line(tmp_path, store, files, name, says):
    with pytest.raises(DataError) as caught:
        beir(folder(tmp_path, **files)).load(store)
    assert str(caught.value) == f"{tmp_path / name}{says}"


def test_a_question_with_the_words_of_another_is_refused(tmp_path, store):
    with pytest.raises(DataError) as caught:
        beir(folder(tmp_path, queries=changed(QUERIES, 1, text="How many moons has planet 1", wrong_answers=["a", "b"]))).load(store)
    assert str(caught.value) == f"{tmp_path.name}, queries.jsonl, line 2: the question has the words of queries.jsonl, line 1; remove one of them"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("corpus.jsonl", b'{"_id": "d0", "text": "one"}\n{"_id": "d1", "text": "\xff"}\n', ", line 2: byte 24 is no UTF-8; save the file as UTF-8"),
        ("qrels/test.tsv", HEADER.encode() + b"\n\xffq1\td1\t1\n", ", line 2: byte 1 is no UTF-8; save the file as UTF-8"),
    ],
)
def test_bytes_that_are_no_utf8_are_refused(tmp_path, store, name, content, says):
    (folder(tmp_path) / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        beir(tmp_path).load(store)
    assert str(caught.value) == f"{tmp_path / name}{says}"


def test_half_of_a_pair_of_code_units_and_deep_brackets_are_refused(tmp_path, store):
    root = folder(tmp_path, corpus=[*CORPUS, r'{"_id": "d8", "text": "a \ud800 b"}'])
    with pytest.raises(DataError, match=r"corpus\.jsonl, line 9 cannot be read as JSON \(.*surrogates not allowed\); correct it"):
        beir(root).load(store)
    (root / "corpus.jsonl").write_text("[" * 1000 + "]" * 1000)
    with pytest.raises(DataError, match=r"corpus\.jsonl, line 1 cannot be read as JSON \(too deep"):
        beir(root).load(store)


def test_a_missing_folder_or_file_is_named(tmp_path, store):
    (folder(tmp_path) / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"no file queries\.jsonl at task\.root="):
        beir(tmp_path).load(store)
    with pytest.raises(DataError, match=r"is a file; give the folder that contains corpus\.jsonl, queries\.jsonl and qrels"):
        beir(tmp_path / "corpus.jsonl").load(store)
    (tmp_path / "queries.jsonl").touch()
    with pytest.raises(DataError, match=r"no file qrels/dev\.tsv at task\.root="):
        beir(tmp_path, split="dev").load(store)
