"""The way of each row: compared with the run itself, with a row worked by hand, and told in sentences."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import poisonbench
from poisonbench.cli import entry
from poisonbench.config.compose import tree_of
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.delivery import delivered
from poisonbench.core.goals import NoGoal
from poisonbench.core.rng import Key
from poisonbench.provenance.lineage import row_digests
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line
from poisonbench.storage.record import read
from poisonbench.storage.store import Store
from tests.conftest import TINY, tiny_words

WORDS = [*TINY, "attack=badnets", "defense=spectral", "threat.budget.rate=0.1", "seed=100", "task.public=0.1"]


@pytest.fixture
def ran(tmp_path, monkeypatch, capsys):
    """Return a function that runs words with lineage, and returns the record's path and the entries of the lineage."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple:
        assert entry([*words, "lineage=true"]) == 0
        (path,) = tmp_path.glob("results/records/*.json")
        (lineage,) = tmp_path.glob("results/lineage/*.parquet")
        assert lineage.stem == path.stem
        capsys.readouterr()
        return path, pq.read_table(lineage).to_pylist()

    return run


def test_the_digest_of_a_row_is_the_sha256_of_its_columns_without_ids_and_owners():
    data = Dataset.of(torch.tensor([[1, 2], [3, 4]], dtype=torch.int64), torch.tensor([0, 1]), num_classes=2)
    head, numbers = b"inputs torch.int64 (2,);labels torch.int64 ();", (3, 4, 1)
    by_hand = hashlib.sha256(head + b"".join(number.to_bytes(8, "little") for number in numbers)).hexdigest()
    assert row_digests(data)[1] == by_hand
    moved = data.take(torch.tensor([1, 0]))
    assert row_digests(moved) == row_digests(data)[::-1]


def test_lineage_changes_neither_the_key_nor_the_digest_nor_the_command_of_a_record(ran, capsys):
    path, _ = ran(*WORDS)
    record = read(path)
    assert entry([*WORDS, "results_dir=plain"]) == 0
    plain = read(next(path.parent.parent.parent.glob("plain/records/*.json")))
    assert (plain.key, plain.result_digest, plain.command) == (record.key, record.result_digest, record.command)
    assert not (path.parent.parent.parent / "plain" / "lineage").exists()


def test_the_entries_say_what_the_run_did(ran):
    path, rows = ran(*WORDS)
    record, experiment = read(path), assemble(tree_of(WORDS), Store(path.parent.parent / "store"))
    line = Line(experiment=experiment, store=Store(path.parent.parent / "store"))
    struck = line.strike()
    verdict = line.judge(struck)
    train = [row for row in rows if row["split"] == "train"]
    assert [row["position"] for row in train] == [*range(len(struck.data))]
    assert [row["attack"] == "poison" for row in train] == struck.kinds.poison.tolist()
    assert [not row["removed"] for row in train] == verdict.keep.tolist()
    assert [row["suspicion"] for row in train] == verdict.suspicion.tolist()
    assert [row["received_digest"] for row in train] == row_digests(struck.data)
    assert [row["digest"] for row in train] == row_digests(experiment.task.train)
    assert all((row["digest"] != row["received_digest"]) == (row["attack"] == "poison") for row in train)
    counts = {split: sum(row["split"] == split for row in rows) for split in ("train", "trusted", "public", "test")}
    assert counts == dict(record.spec["task"]["rows"])
    assert sum(row["attack"] == "poison" and not row["removed"] for row in train) == record.counts["poisoned_kept"]


def test_rows_that_an_attacker_adds_are_told_apart_after_all_rows_were_shuffled(ran):
    words = tiny_words("attack=subpopulation", "seed=100")
    path, rows = ran(*words)
    experiment = assemble(tree_of(words), Store(path.parent.parent / "store"))
    clean = dict(zip(experiment.task.train.ids.tolist(), row_digests(experiment.task.train), strict=True))
    train = [row for row in rows if row["split"] == "train"]
    added = [row for row in train if row["added"]]
    assert added
    assert all(row["id"] < 0 and row["source"] == "added by the attacker" and row["digest"] is None for row in added)
    assert {row["id"] for row in train if not row["added"]} == {*clean}
    assert all(row["digest"] == row["received_digest"] == clean[row["id"]] for row in train if not row["attack"] and not row["added"])
    assert [row["id"] for row in train] != sorted(row["id"] for row in train)


def test_a_delivery_keeps_the_ids_from_before_it(tiny):
    experiment = tiny("attack=subpopulation")
    clean = experiment.task.train
    more = clean.take(torch.tensor([0, 1]))
    more = more.with_columns(more.columns | {"ids": torch.tensor([-1, -2]), "labels": 1 - more.labels.clamp(max=1)})
    mask = torch.arange(len(clean) + 2) >= len(clean)
    out = delivered(clean, Poisoned(data=clean.append(more), mask=mask, goal=NoGoal()), Key.root(0))
    assert sorted(out.clean_ids.tolist()) == sorted([*clean.ids.tolist(), -1, -2])
    places = {number: place for place, number in enumerate(clean.ids.tolist())}
    assert all(torch.equal(out.data.inputs[at], clean.inputs[places[number]]) for at, number in enumerate(out.clean_ids.tolist()) if number >= 0)


def test_each_trial_has_its_own_entries(ran, capsys):
    path, rows = ran(*tiny_words("attack=feature_collision", "threat.trials=2", "seed=100"))
    assert {row["trial"] for row in rows if row["split"] == "train"} == {0, 1}
    number = next(row["id"] for row in rows if row["split"] == "train")
    assert entry(["provenance", "lineage", str(path), f"row={number}"]) == 0
    said = capsys.readouterr().out
    assert said.count("Trial ") == 2
    assert "No filter judged it." in said


def test_secret_draws_are_those_of_the_run_itself(ran):
    path, rows = ran(*WORDS, "salt=system")
    assert sum(row["attack"] == "poison" and not row["removed"] for row in rows) == read(path).counts["poisoned_kept"]


def test_the_way_of_a_row_is_told_in_sentences(ran, capsys):
    path, rows = ran(*WORDS)
    poison = next(row for row in rows if row["attack"] == "poison" and row["removed"])
    assert entry(["provenance", "lineage", str(path), f"row={poison['id']}"]) == 0
    said = capsys.readouterr().out
    assert f"train row {poison['id']}: {poison['source']}" in said
    assert f"its digest {poison['digest']}" in said
    assert "The attack badnets changed it; it is poison." in said
    assert f"The defender received it with the label {poison['received_label']} and the digest {poison['received_digest']}." in said
    rank = 1 + sum(row["suspicion"] > poison["suspicion"] for row in rows if row["suspicion"] is not None)
    assert f"The filter spectral removed it (suspicion {poison['suspicion']:.4g}, place {rank} of " in said
    assert "The undefended victim was trained on it, the defended one was not." in said
    assert "ground truth" in said


@pytest.mark.parametrize(("split", "said"), [("trusted", "trusted row of the defender"), ("public", "a public row"), ("test", "a test row")])
def test_a_row_outside_the_training_rows_is_told_with_its_split(ran, capsys, split, said):
    path, rows = ran(*WORDS)
    row = next(row for row in rows if row["split"] == split)
    assert entry(["provenance", "lineage", str(path), f"row={'test/' * (split == 'test')}{row['id']}"]) == 0
    told = capsys.readouterr().out
    assert said in told
    assert row["digest"] in told


def test_a_file_is_found_by_its_name_or_the_end_of_it(tmp_path, ran, capsys):
    for split, count in (("train", 12), ("test", 4)):
        for label in ("cat", "dog"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for number in range(count):
                colour = (20 * number, 200 * (label == "dog"), 100 * (split == "test"))
                Image.new("RGB", (8, 8), colour).save(tmp_path / "data" / split / label / f"{number}.png")
    net = ("net=tiny", "learner.epochs=1", "threads=1")
    path, rows = ran("task=image_folder", "task.root=data", "task.trusted=0", "attack=badnets", "threat.budget.rate=0.1", "seed=100", *net)
    source = next(row["source"] for row in rows if row["split"] == "train" and row["source"].endswith("dog/3.png"))
    for name, whole in {source: source, "dog/7.png": "train/dog/7.png", "test/dog/3.png": "test/dog/3.png"}.items():
        assert entry(["provenance", "lineage", str(path), f"file={name}"]) == 0
        said = capsys.readouterr().out
        assert whole in said
        assert "label is dog" in said
    assert entry(["provenance", "lineage", str(path), "file=7.png"]) == 2
    assert "2 files have this name" in capsys.readouterr().err
    assert entry(["provenance", "lineage", str(path), "file=dog/3.png"]) == 2
    assert "2 files have this name, test/dog/3.png and train/dog/3.png among them" in capsys.readouterr().err


@pytest.mark.parametrize("apart", [False, True])
def test_test_rows_have_the_names_of_their_source(tmp_path, ran, apart):
    lines = [f"{number},{'xy'[number % 2]}" for number in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,label", *lines]))
    (tmp_path / "more.csv").write_text("label,a\nx,100\ny,101\n")
    tests = "task.test_file=more.csv" if apart else "task.test=0.25"
    _, rows = ran("task=csv", "task.root=rows.csv", tests, "attack=none", "seed=100", "threads=1")
    found = {row["digest"]: row["source"] for row in rows if row["split"] == "test"}
    values = {100: "more.csv, line 2", 101: "more.csv, line 3"} if apart else {number: f"line {number + 2}" for number in range(40)}
    given = {value: Dataset.of(torch.tensor([[float(value)]]), torch.tensor([value % 2]), num_classes=2) for value in values}
    named = {row_digests(row)[0]: values[value] for value, row in given.items()}
    assert len(found) == (2 if apart else 10)
    assert found == {digest: named[digest] for digest in found}


def test_the_python_interface_writes_it_too(tmp_path):
    record = poisonbench.run(*WORDS, "lineage=true", results_dir=str(tmp_path))
    table = pq.read_table(tmp_path / "lineage" / f"{record.key}.parquet")
    assert table.num_rows == sum(record.spec["task"]["rows"].values())


def test_wrong_questions_are_one_sentence(ran, capsys):
    path, _ = ran(*WORDS)
    for words, said in {
        ("row=999999",): "no such row in this run",
        ("row=x",): "give the number of a training row",
        ("row=--5",): "give the number of a training row",
        ("row=1", "row=2"): "row= is given twice; give it once",
        ("rwo=1",): "rwo= is no word of it; did you mean row?",
        ("row=1/2",): "give the number of a training row",
        ("file=nothing.png",): "no row of this run has this source",
        (): "give either row=ID or file=NAME",
        ("row=1", "file=x"): "give either row=ID or file=NAME",
    }.items():
        assert entry(["provenance", "lineage", str(path), *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1


def test_a_record_without_a_lineage_says_how_to_get_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry([*WORDS]) == 0
    (path,) = tmp_path.glob("results/records/*.json")
    assert entry(["provenance", "lineage", str(path), "row=1"]) == 2
    assert "run its command again with lineage=true" in capsys.readouterr().err
    (tmp_path / "no.json").write_text("{}")
    assert entry(["provenance", "lineage", "no.json", "row=1"]) == 2
    assert "is not a record" in capsys.readouterr().err


def test_the_lineage_of_another_run_is_refused(ran, capsys):
    path, _ = ran(*WORDS)
    lineage = path.parent.parent / "lineage" / f"{path.stem}.parquet"
    table = pq.read_table(lineage)
    told = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata({**told, "result_digest": "0" * 64}), lineage)
    assert entry(["provenance", "lineage", str(path), "row=1"]) == 2
    assert "was written for another run" in capsys.readouterr().err
    pq.write_table(pa.table({"a": [1]}), lineage)
    assert entry(["provenance", "lineage", str(path), "row=1"]) == 2
    assert "is no lineage of this version" in capsys.readouterr().err
    lineage.write_bytes(lineage.read_bytes()[:50])
    assert entry(["provenance", "lineage", str(path), "row=1"]) == 2
    assert "is no lineage" in capsys.readouterr().err


def test_a_skipped_run_writes_no_lineage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert entry([*TINY, "attack=none", "defense=krum", "lineage=true"]) == 0
    (path,) = tmp_path.glob("results/records/*.json")
    assert read(path).status == "skipped"
    assert not (tmp_path / "results" / "lineage").exists()


def test_a_row_that_a_defended_training_received_is_not_said_to_be_trained_on(ran, capsys):
    path, rows = ran(*tiny_words("attack=badnets", "defense=dp_sgd", "threat.budget.rate=0.1", "seed=100"))
    number = next(row["id"] for row in rows if row["split"] == "train")
    assert entry(["provenance", "lineage", str(path), f"row={number}"]) == 0
    said = capsys.readouterr().out
    assert "It was given to the training of the defended victim by dp_sgd; what happened inside is not recorded." in said
    assert "The undefended and the defended victim" not in said
