import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from attacks.supply.pack import PoisonPack
from poisonbench.cli import entry
from poisonbench.config.compose import tree_of
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.goals import NoGoal, Probe
from poisonbench.core.rng import Key
from poisonbench.packs import Pack, pack_of, write
from poisonbench.packs import read as read_pack
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line
from poisonbench.storage.record import read
from poisonbench.storage.store import Store, write_tensors
from tests.conftest import TINY, tiny_words
from tests.unit.attacks.worlds import world
from tests.unit.streams import array, picture, raw, several, stream, together, whole

ATTACKS = {
    "badnets": ["attack=badnets", "threat.budget.rate=0.2"],
    "cover": ["attack=wanet", "threat.budget.rate=0.2"],
    "injected": ["attack=canaries", "threat.budget.rate=0.4"],
    "targeted": ["attack=bullseye_polytope", "threat.budget.rate=0.1"],
    "worse on all rows": ["attack=label_flip", "threat.budget.rate=0.2"],
    "texts": ["attack=word_trigger"],
    "mails": ["attack=dictionary"],
}


def line_of(words, folder="results") -> Line:
    store = Store(Path(folder) / "store")
    return Line(experiment=assemble(tree_of(words), store), store=store)


def packed(words, capsys, *more):
    """Run a record, pack it, and return the record and the words that use the pack, as the command prints them."""
    assert entry([*words, *more]) == 0
    (path,) = Path("results/records").glob("*.json")
    capsys.readouterr()
    assert entry(["pack", str(path), "out"]) == 0
    said = capsys.readouterr().out

    used = shlex.split(said.splitlines()[-1].removeprefix("use it: python -m poisonbench "))
    return read(path), used, said


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ATTACKS)
def test_a_pack_gives_the_same_rows_and_the_same_figures_as_the_attack_that_made_it(here, capsys, name):
    words = tiny_words(*ATTACKS[name])
    record, used, said = packed(words, capsys)
    single = [*words, *(["threat.trials=1"] if record.counts.get("trials") else [])]
    before, after = line_of(single).struck(), line_of(used).struck()
    assert after.data.digest == before.data.digest
    assert torch.equal(after.mask, before.mask)
    assert (after.cover is None) == (before.cover is None or not bool(before.cover.any()))
    assert after.origins is None or torch.equal(after.origins, before.origins)
    assert f"{int(before.mask.sum())} poisoned rows" in said
    assert entry([*single, "results_dir=alone"]) == 0
    assert entry([*used, "results_dir=used"]) == 0
    (alone,), (again,) = (list(Path(folder, "records").glob("*.json")) for folder in ("alone", "used"))
    alone, again = read(alone), read(again)
    own = {"goal"} if name in ("mails", "injected") else set()  # figures of a goal's own are no part of a pack
    for part in ("metrics", "undefended", "baseline"):
        assert {key: value for key, value in getattr(again, part).items() if key not in own} == {
            key: value for key, value in getattr(alone, part).items() if key not in own
        }
    assert again.counts == alone.counts


def test_rows_that_injected_rows_were_made_from_are_kept_by_their_ids(tmp_path):
    clean = Dataset.of(torch.arange(12, dtype=torch.uint8).view(6, 2), torch.arange(6) % 2, num_classes=2).take(torch.tensor([5, 2, 4]))
    added = clean.take(torch.tensor([1, 1])).edit(torch.arange(2), inputs=torch.tensor([[9, 9], [8, 8]], dtype=torch.uint8), ids=torch.tensor([-1, -2]))
    mask = torch.tensor([False, False, False, True, True])
    poisoned = Poisoned(data=clean.append(added), mask=mask, goal=NoGoal(), origins=torch.tensor([1, 1]))
    write(pack_of(clean, poisoned, NoGoal().probe(clean), clean, {}), tmp_path)
    assert load_file(tmp_path / "pack.safetensors")["origins"].tolist() == [2, 2]  # the row at position 1 has the id 2
    known = world(clean, rate=1, inject=True)
    again = PoisonPack(path=str(tmp_path)).poison(known, Key.root(100))
    assert again.data.digest == poisoned.data.digest
    assert again.origins.tolist() == [1, 1]
    assert again.mask.tolist() == mask.tolist()


def test_a_pack_runs_against_a_defense_and_the_record_names_it(here, capsys):
    record, used, _ = packed(tiny_words(*ATTACKS["badnets"]), capsys)
    assert entry([*used, "defense=spectral", "results_dir=used"]) == 0
    (path,) = Path("used/records").glob("*.json")
    told = read(path)
    assert told.spec["attack"]["name"] == "pack"
    assert told.undefended == record.undefended
    assert told.metrics["tpr"] > 0.5


def test_a_moved_folder_is_the_same_experiment_and_another_goal_is_another(here, capsys):
    _, used, _ = packed(tiny_words(*ATTACKS["badnets"]), capsys)
    keys = lambda: line_of(used).experiment.attack.data.content  # noqa: E731
    before = keys()
    head = json.loads(Path("out/pack.json").read_text())
    Path("out/pack.json").write_text(json.dumps(head | {"told": {}}))
    assert keys() == before
    Path("out/pack.json").write_text(json.dumps(head | {"degrade": True}))
    assert keys() != before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["threat.budget.rate=0.1"], r"out has 76 poisoned rows, but threat\.budget allows 38; set threat\.budget\.count=76"),
        (["threat.budget.relabel=false"], "labels changed, but threat.budget.relabel=false is a clean-label threat"),
        (["threat.budget.norm=linf", "threat.budget.limit=8"], r"a row changed by \d+ in linf; threat\.budget\.limit=8"),
        (["task.noise=7"], "of the 76 training rows that the pack names have other content here; the task has to be the one"),
        (["task.limit=100"], "of the 76 training rows that the pack names are not among those of this task"),
        (["task.side=10"], "other content here"),
    ],
)
def test_the_referee_and_the_pack_refuse_what_does_not_fit_with_one_sentence(here, capsys, change, reason):
    _, used, _ = packed(tiny_words(*ATTACKS["badnets"]), capsys)
    words = [word for word in used if word.partition("=")[0] not in {part.partition("=")[0] for part in change}]
    assert entry([*words, *change, "results_dir=other"]) == 2
    error = capsys.readouterr().err
    assert re.search(reason, " ".join(error.split()))
    assert "Traceback" not in error
    assert not list(Path("other").glob("records/*.json"))


def test_a_targeted_pack_aims_at_its_own_target(here, capsys):
    _, used, _ = packed(tiny_words(*ATTACKS["targeted"]), capsys)
    aimed = load_file("out/pack.safetensors")["probed"].tolist()
    with pytest.raises(ConfigError, match=rf"set threat\.trials=1 threat\.targets=1 threat\.target_ids=\[{aimed[0]}\]"):
        line_of([*used, "seed=5"]).struck()
    assert line_of([*used, "seed=5", f"threat.target_ids=[{aimed[0]}]"]).struck().mask.any()


def test_the_printed_command_has_one_number_of_trials(here, capsys):
    _, used, _ = packed([*tiny_words(*ATTACKS["targeted"]), "threat.trials=2"], capsys)
    assert [word for word in used if word.startswith("threat.trials=")] == ["threat.trials=1"]


def test_a_budget_of_zero_leaves_the_rows_and_keeps_the_goal(here, capsys):
    _, used, _ = packed(tiny_words(*ATTACKS["badnets"]), capsys)
    line = line_of([word for word in used if not word.startswith("threat.budget")] + ["threat.budget.rate=0"])
    poisoned = line.struck()
    assert not poisoned.mask.any()
    assert len(line.probe(line.strike())) > 0


@pytest.mark.parametrize("name", ["pack.safetensors", "pack.json"])
def test_a_damaged_pack_is_refused(here, capsys, name):
    _, used, _ = packed(tiny_words(*ATTACKS["badnets"]), capsys)
    content = Path("out", name).read_bytes()
    Path("out", name).write_bytes(content[: len(content) // 2])
    assert entry([*used, "results_dir=other"]) == 2
    assert "make the pack again" in capsys.readouterr().err.replace("\n", " ")
    Path("out", name).unlink()
    assert entry([*used, "results_dir=other"]) == 2
    assert "make" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"cover": torch.zeros(3, dtype=torch.bool)},
        {"ids": torch.zeros(76, dtype=torch.int64)},
        {"hit": torch.zeros(2, 2)},
        {"ids": torch.tensor(3)},
        {"hit": torch.tensor(True)},
        {"edited.labels": torch.tensor(1)},
        {"injected.ids": torch.tensor(1)},
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(here, capsys, change):
    _, used, _ = packed(tiny_words(*ATTACKS["badnets"]), capsys)
    write_tensors(Path("out/pack.safetensors"), {**load_file("out/pack.safetensors"), **change})
    from poisonbench.core.files import file_digest

    head = json.loads(Path("out/pack.json").read_text())
    Path("out/pack.json").write_text(json.dumps(head | {"sha256": file_digest(Path("out/pack.safetensors"))}))
    with pytest.raises(DataError, match="out is not a complete pack"):
        line_of(used).struck()


def test_without_a_folder_the_attack_says_how_to_make_one(here, capsys):
    assert entry([*TINY, "attack=pack"]) == 2
    assert "name the folder of a pack with attack.data.path=FOLDER" in " ".join(capsys.readouterr().err.split())
    assert entry([*TINY, "attack=pack", "attack.data.path=nowhere"]) == 2
    assert "nowhere contains no pack.json" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("change", [{"degrade": "no"}, {"degrade": 0}, {"form": 1}, {"told": []}, {"sha256": None}])
def test_a_head_with_other_types_is_refused(here, capsys, change):
    _, used, _ = packed(tiny_words(*ATTACKS["badnets"]), capsys)
    head = json.loads(Path("out/pack.json").read_text())
    Path("out/pack.json").write_text(json.dumps(head | change))
    with pytest.raises(DataError, match=rf"is damaged \(TypeError: {next(iter(change))} is "):
        line_of(used)


def small(clean: Dataset) -> Pack:
    """Return a pack that changes row 0 and is judged on row 1."""
    one = clean.take(torch.tensor([1]))
    hit = torch.zeros(1, clean.num_classes, dtype=torch.bool)
    hit[0, 1] = True
    edited = clean.edit(torch.tensor([0]), labels=1 - clean.labels[:1])
    poisoned = Poisoned(data=edited, mask=torch.arange(len(clean)) == 0, goal=NoGoal())
    return pack_of(clean, poisoned, Probe(rows=torch.tensor([1]), inputs=one.inputs, truth=one.labels, hit=hit), clean, {})


def test_a_pack_without_poison_or_without_a_wanted_answer_is_refused(tmp_path):
    clean = Dataset.of(torch.arange(12, dtype=torch.uint8).view(6, 2), torch.arange(6) % 2, num_classes=2)
    whole = small(clean)
    write(whole, tmp_path)
    assert len(read_pack(tmp_path)) == 1
    none = {"ids": whole.ids[:0], "before": whole.before[:0], "cover": whole.cover[:0]}
    write(dataclasses.replace(whole, **none, edited={name: column[:0] for name, column in whole.edited.items()}), tmp_path)
    with pytest.raises(DataError, match="it has no poisoned rows"):
        read_pack(tmp_path)
    write(dataclasses.replace(whole, hit=whole.hit & False), tmp_path)
    with pytest.raises(DataError, match="a test row has no answer that the attacker wants"):
        read_pack(tmp_path)


# the poisoning benchmark


def large(value: int) -> bytes:
    """Return LONG1."""
    data = value.to_bytes(9, "little")
    return b"\x8a" + bytes([len(data)]) + data


BLOBS = [*TINY[1:], "task=blobs", "task.trusted=0"]


def benchmark(folder: Path, count=3, label=1, patch=b"", **files):
    """Write the three pickles: `count` rows of one class, moved by four levels, and the first test row of another class; return what they contain."""
    task = line_of(BLOBS).experiment.task
    places = (task.train.labels == label).nonzero()[:count, 0]
    moved = (task.train.inputs[places].int() + 4).clamp(max=255).to(torch.uint8)
    aim = int((task.test.labels != label).nonzero()[0])
    side = task.train.inputs.shape[-1]
    written = {
        "poisons": several(*(together(picture("L", side, side, bytes(row.flatten().tolist())), whole(label)) for row in moved)),
        "base_indices": array("i8", (count,), task.train.ids[places].numpy().tobytes()),
        "target": together(
            picture("L", side, side, bytes(task.test.inputs[aim].flatten().tolist())), whole(int(task.test.labels[aim])), *([patch] if patch else [])
        ),
    }
    folder.mkdir()
    for name, value in (written | files).items():
        (folder / f"{name}.pickle").write_bytes(stream(value))
    return task, places, moved, aim


def test_the_pickles_of_the_poisoning_benchmark_become_a_pack_that_the_referee_measures(here, capsys):
    task, places, moved, aim = benchmark(here / "poison")
    assert entry(["pack", "poison", "out", *BLOBS]) == 0
    used = capsys.readouterr().out.splitlines()[-1].removeprefix("use it: python -m poisonbench ").split()
    used = [word.strip("'") for word in used]
    assert f"threat.target_ids=[{int(task.test.ids[aim])}]" in used
    assert "threat.budget.count=3" in used
    clean_label = ["threat.budget.relabel=false", "threat.budget.norm=linf", "threat.budget.limit=4"]
    line = line_of([*used, *clean_label])
    poisoned = line.strike()
    assert torch.equal(poisoned.mask.nonzero()[:, 0], places)
    assert torch.equal(poisoned.data.inputs[places], moved)
    probe = line.probe(poisoned)
    assert probe.targets.tolist() == probe.rows.tolist() == [aim]
    assert torch.equal(probe.hit, F.one_hot(torch.tensor([1]), task.train.num_classes).bool())
    assert entry([*used, *clean_label[:2], "threat.budget.limit=3"]) == 2
    assert "a row changed by 4 in linf" in capsys.readouterr().err
    assert entry([*used, *clean_label]) == 0


def test_the_target_of_a_backdoor_gets_its_patch(here, capsys):
    patch = array("f4", (1, 2, 2), np.array([0, 1, 0.5, 0.25], dtype="<f4").tobytes())
    task, _, _, aim = benchmark(here / "poison", patch=patch + together(whole(3), whole(1)))
    assert entry(["pack", "poison", "out", *BLOBS]) == 0
    shown, row = load_file("out/pack.safetensors")["probe_inputs"][0], task.test.inputs[aim].clone()
    row[0, 1:3, 3:5] = torch.tensor([[0, 255], [127, 63]], dtype=torch.uint8)
    assert torch.equal(shown, row)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"poisons": b"cdatetime\ndate\n"}, r"poisons\.pickle names datetime\.date, which is not allowed"),
        ({"poisons": several(together(whole(1), whole(1)))}, r"poisons\.pickle is not a list of pictures with labels"),
        ({"poisons": several()}, r"poisons\.pickle is not a list of pictures"),
        ({"poisons": several(together(picture("L", 1, 1, b"a"), whole(1)), together(picture("L", 2, 1, b"ab"), whole(1)))}, "different sizes"),
        ({"base_indices": several(whole(1))}, r"base_indices\.pickle does not contain one row number for each of the 3"),
        ({"base_indices": several(whole(1), whole(2), whole(-1))}, r"base_indices\.pickle does not contain one row number"),
        ({"base_indices": array("u8", (3,), np.array([1, 2, 2**63], dtype="<u8").tobytes())}, r"base_indices\.pickle does not contain one row number"),
        ({"poisons": several(together(picture("L", 8, 8, bytes(64)), large(2**63)))}, r"poisons\.pickle is not a list of pictures with labels"),
        ({"target": together(picture("L", 8, 8, bytes(64)), large(2**63))}, r"target\.pickle is not a picture with a label"),
        ({"base_indices": array("i1", (4,), bytes(4))}, r"base_indices\.pickle does not contain one row number for each of the 3"),
        ({"base_indices": several(whole(1), whole(2), whole(2))}, "a row is named twice"),
        ({"base_indices": several(whole(1), whole(2), whole(10**6))}, "row 1000000 is not one"),
        ({"target": together(whole(1))}, r"target\.pickle is not a picture with a label"),
        ({"target": together(picture("L", 8, 8, bytes(64)), whole(0))}, "no test rows with the label 0 show its picture"),
        ({"target": together(picture("RGB", 8, 8, bytes(192)), whole(0))}, "no test rows with the label 0 show its picture"),
    ],
)
def test_pickles_that_do_not_fit_are_refused_with_one_sentence_and_nothing_is_written(here, capsys, files, reason):
    benchmark(here / "poison", **files)
    assert entry(["pack", "poison", "out", *BLOBS]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(reason, error)
    assert "Traceback" not in error
    assert not Path("out").exists()


def test_a_patch_that_does_not_fit_is_refused(here, capsys):
    for number, patch in enumerate(
        [array("f4", (1, 2, 2), np.full(4, 2, dtype="<f4").tobytes()), array("u1", (1, 2, 2), bytes(4)), array("f4", (1, 0, 2), b""), raw(b"")]
    ):
        benchmark(here / f"poison{number}", patch=patch + together(whole(3), whole(1)))
        assert entry(["pack", f"poison{number}", "out", *BLOBS]) == 2
        assert "the patch is no array" in " ".join(capsys.readouterr().err.split())


def test_the_task_has_to_be_named_and_to_be_that_of_the_poison(here, capsys):
    benchmark(here / "poison")
    assert entry(["pack", "poison", "out"]) == 2
    assert "name the task whose rows were poisoned with task=NAME" in " ".join(capsys.readouterr().err.split())
    assert entry(["pack", "poison", "out", "task=breast_cancer"]) == 2
    assert "choose the task that was poisoned" in " ".join(capsys.readouterr().err.split())
    assert entry(["pack", "poison", "out", "target=1", *BLOBS]) == 2
    assert "contain the labels; leave target= out" in " ".join(capsys.readouterr().err.split())


# BackdoorBench


def backdoorbench(folder: Path, rows=4, target=1):
    task = line_of(BLOBS).experiment.task
    for name, split in (("bd_train_dataset", task.train), ("bd_test_dataset", task.test)):
        for place in (split.labels != target).nonzero()[:rows, 0].tolist():
            path = folder / name / str(int(split.labels[place])) / f"{int(split.ids[place])}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = split.inputs[place, 0].clone()
            pixels[-2:, -2:] = 255
            Image.fromarray(pixels.numpy()).save(path)
    (folder / "attack_result.pt").write_bytes(b"PK")
    return task


def test_the_pictures_of_backdoorbench_become_a_pack(here, capsys):
    task = backdoorbench(here / "record")
    assert entry(["pack", "record", "out", "target=1", *BLOBS]) == 0
    used = [word.strip("'") for word in capsys.readouterr().out.splitlines()[-1].removeprefix("use it: python -m poisonbench ").split()]
    line = line_of(used)
    poisoned = line.strike()
    assert int(poisoned.mask.sum()) == 4
    assert (poisoned.data.labels[poisoned.mask] == 1).all()
    assert (poisoned.data.inputs[poisoned.mask][:, :, -2:, -2:] == 255).all()
    probe = line.probe(poisoned)
    assert len(probe) == 4
    assert len(probe.targets) == 0
    assert torch.equal(probe.truth, task.test.labels[probe.rows])


def test_backdoorbench_without_a_target_or_with_a_wrong_label_is_refused(here, capsys):
    backdoorbench(here / "record")
    for words, reason in (
        ([], "name it with target=0 to target=3"),
        (["target=9"], "name it with target=0 to target=3"),
        (["target=x"], "give the number of a class"),
        (["target=" + "1" * 5000], "give the number of a class"),
        (["target=1", "defense=spectral"], "defense=spectral: a pack of published poison has neither attack nor defense"),
        (["target=1", "+attack.data=x"], "+attack.data=x: a pack of published poison has neither attack nor defense"),
    ):
        assert entry(["pack", "record", "out", *words, *BLOBS]) == 2
        assert reason in " ".join(capsys.readouterr().err.split())
    (path, *_) = sorted(Path("record/bd_train_dataset").glob("*/*.png"))
    path.rename(path.with_name("x.png"))
    assert entry(["pack", "record", "out", "target=1", *BLOBS]) == 2
    assert "the name is no LABEL/NUMBER.png" in " ".join(capsys.readouterr().err.split())


# arrays


def arrays(folder: Path, **changes):
    """Write poison as arrays: rows of two classes with their channels last and as fractions, and labels with a 1 for the class."""
    task = line_of(BLOBS).experiment.task
    places = (task.train.labels != 2).nonzero()[:3, 0]
    stamped, shown = task.train.inputs[places].clone(), task.test.inputs[:5].clone()
    stamped[:, :, :2, :2] = shown[:, :, :2, :2] = 255
    content = {
        "x": (stamped.float() / 255).permute(0, 2, 3, 1).numpy(),
        "y": np.eye(task.train.num_classes, dtype=np.float32)[[2, 2, 2]],
        "indices": task.train.ids[places].numpy(),
        "x_test": shown.numpy(),
        "y_test": np.full(5, 2),
        "indices_test": task.test.ids[:5].numpy(),
    }
    folder.mkdir()
    np.savez(folder / "poison.npz", **content | changes)
    return task, places, stamped


def test_arrays_become_a_pack(here, capsys):
    task, places, stamped = arrays(here / "poison")
    assert entry(["pack", "poison", "out", *BLOBS]) == 0
    used = [word.strip("'") for word in capsys.readouterr().out.splitlines()[-1].removeprefix("use it: python -m poisonbench ").split()]
    line = line_of(used)
    poisoned = line.strike()
    assert torch.equal(poisoned.data.inputs[places], stamped)
    assert poisoned.data.labels[places].tolist() == [2, 2, 2]
    assert torch.equal(poisoned.mask.nonzero()[:, 0], places)
    probe = line.probe(poisoned)
    assert probe.rows.tolist() == (task.test.labels[:5] != 2).nonzero()[:, 0].tolist()  # an answer that is right is no success
    assert (probe.inputs[:, :, :2, :2] == 255).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x": np.array([object()] * 3)}, "cannot be read as arrays of numbers"),
        ({"x": np.full((3, 8, 8, 1), 0.3001)}, "x has values between the grey levels"),
        ({"x": np.zeros((3, 9, 9, 1))}, r"x has rows of shape \(9, 9, 1\), and those of this task have \(1, 8, 8\)"),
        ({"x": np.full((3, 8, 8, 1), np.nan)}, "x has values between the grey levels"),
        ({"y": np.array([0.5, 1, 1])}, "y has to be a whole number for each row"),
        ({"y": np.array([2, 2, 9])}, "the poison has the label 9"),
        ({"y": np.array([2, -1, 1])}, "the poison has the label -1"),
        ({"y": np.array([2, 2, 2**63], dtype=np.uint64)}, "y has a number above 9223372036854775807"),
        ({"indices": np.array([1, 2, 2**64 - 1], dtype=np.uint64)}, "indices has a number above 9223372036854775807"),
        ({"x": np.array(1.0)}, "x is a single value"),
        ({"indices_test": np.array(1)}, "indices_test is a single value"),
        ({"x": np.zeros((3, 8, 8, 1), dtype=bool)}, "x has the type bool; give whole numbers or fractions"),
        ({"y_test": np.full(5, 0.5)}, r"y_test has to be .* it has the type float64 and the shape \(5,\)"),
        ({"x": np.zeros((0, 8, 8, 1)), "y": np.zeros(0, dtype=int), "indices": np.zeros(0, dtype=int)}, "the poison has 0 training rows and 5 test rows"),
        ({"indices": np.array([1, 2])}, "indices has to be one whole number for each row"),
        ({"indices": np.array([1, 1, 2])}, "a row is named twice"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(here, capsys, changes, reason):
    arrays(here / "poison", **changes)
    assert entry(["pack", "poison", "out", *BLOBS]) == 2
    assert re.search(reason, " ".join(capsys.readouterr().err.split()))
    assert not Path("out").exists()


def test_a_folder_without_poison_says_what_is_read(here, capsys):
    Path("empty").mkdir()
    Path("empty/attack_result.pt").write_bytes(b"PK")
    assert entry(["pack", "empty", "out", *BLOBS]) == 2
    assert "attack_result.pt is a file of torch that names classes, which is not read" in " ".join(capsys.readouterr().err.split())


def test_a_record_without_poison_and_wrong_words_are_refused(here, capsys):
    assert entry([*TINY, "attack=none"]) == 0
    (path,) = Path("results/records").glob("*.json")
    capsys.readouterr()
    Path("file").write_text("mine")
    for words, reason in (
        ([str(path), "file"], "file is a file; name a folder to write into"),
        ([str(path), "out"], "poisons no rows"),
        ([str(path)], "give a record or a folder of poison"),
        ([str(path), "out", "task=blobs"], "leave this word out"),
    ):
        assert entry(["pack", *words]) == 2
        assert reason in " ".join(capsys.readouterr().err.split())
    assert not Path("out").exists()
