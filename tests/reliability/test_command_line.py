"""The command line for users: every mistake gives one sentence and exit code 2, and nothing is written."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from poisonbench.cli import entry
from poisonbench.core.plugins import HOME
from poisonbench.storage.record import read
from poisonbench.sweep.cell import portable
from tests.conftest import TINY, tiny_words
from tests.unit.tasks.test_images import parquets as parquets
from tests.unit.tasks.test_images import write_parquet


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Start from an empty folder, away from the clone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(*words: str, cwd: Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=timeout, env=told, check=False)


def records(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/records/*.json"))


def test_a_run_ends_in_a_table_and_a_record(here, capsys):
    assert entry([*TINY, "attack=backdoor", "defense=spectral", "threat.budget.rate=0.2"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("C-Acc", "ASR", "R-Acc", "undefended", "defended", "filter removed"))
    (path,) = records(here)
    assert f"record: results/records/{path.name}" in out
    record = read(path)
    told = [repr(word) if "[" in word else word for word in TINY if "threads" not in word]
    assert record.command == " ".join(["python -m poisonbench", *told, "attack=backdoor defense=spectral threat.budget.rate=0.2"])
    assert not [entry.name for entry in here.iterdir() if entry.name != "results"]


def test_the_same_command_twice_computes_nothing_and_agrees(here, capsys):
    words = [*TINY, "attack=backdoor", "defense=spectral"]
    digests = []
    for _ in range(2):
        assert entry(words) == 0
        (path,) = records(here)
        digests.append(json.loads(path.read_text())["result_digest"])
    second = capsys.readouterr().out.split("record:")[1]
    assert "made in" not in second
    assert "from the store" in second
    assert digests[0] == digests[1]


def test_a_sweep_shares_victims_and_repeats_from_the_store(here, capsys):
    words = ["-m", *TINY, "attack=none,backdoor", "defense=none,spectral,random_drop", "seed=0,1"]
    assert entry(words) == 0
    out = capsys.readouterr().out
    assert len(records(here)) == 12
    # a seed has one clean victim, one poisoned one, and two filtered ones for each of the two
    assert sum("made in" in line and line.startswith("fit") for line in out.splitlines()) == 2 * (2 + 4)
    assert sum("fit undefended: made" in line for line in out.splitlines()) == 2
    assert "sweep" in out
    assert [path.name for path in here.iterdir()] == ["results"]
    start = time.monotonic()
    assert entry(words) == 0
    assert "made in" not in capsys.readouterr().out
    assert time.monotonic() - start < 30


MISTAKES = {
    "attack=bakdoor": "attack=bakdoor: no such option; did you mean backdoor?",
    "defense=spectrum": "did you mean spectral?",
    "attack=5": "attack=5: choose one by its name; known: adversarial_poison",
    "+=x": "+=x: the key is missing",
    "+experiment=qqq": "experiment=qqq: no such option; known: agent_memory, all_to_all, backdoor_defenses",
    "atack=backdoor": "atack: no such key; did you mean attack?",
    "sed=1": "sed: no such key; did you mean seed?",
    "attack.data.sise=3": "attack.data.sise: no such key; did you mean size?",
    "threat.budget.rat=0.1": "threat.budget.rat: no such key; did you mean rate?",
    "defense.sanitize.scor=paper": "defense.sanitize.scor: no such key; did you mean score?",
    "net.wdth=3": "net.wdth: no such key; did you mean",
    "learner.epoch=3": "learner.epoch: no such key; did you mean epochs?",
    "task.rows_=3": "task.rows_: no such key; did you mean rows?",
    "seed=abc": "seed=abc: give a whole number, not text",
    "threat.budget.rate=much": "threat.budget.rate=much: give a number, not text",
    "threat.budget.rate=2": "a poison rate lies in [0, 1]",
    "threat.budget.rate=0.0001": "selects none; give at least",
    "attack.data.size=big": "attack.data.size=big: give a whole number, not text",
    "attack.data.size=9": "does not fit 8x8 images; lower attack.data.size",
    "attack.data.pattern=blue": "attack.data.pattern=blue: known: checkerboard, white",
    "attack.data.target=4": "attack.data.target=4 is no class",
    "attack.data.image=nowhere.png": "no file at nowhere.png",
    "defense.sanitize.expected_rate=0.7": "lies in [0, 0.5)",
    "learner.epochs=0": "learner.epochs=0: give a whole number of 1 or more",
    "learner.epochs=1.5": "give a whole number",
    "device=tpu": "choose auto, cpu or cuda",
    "threads=-1": "give a number of CPU threads",
    "task.limit=3": "task.limit=3",
    "task.trusted=2": "task.trusted=2",
    "task=cifar10": "name their folder with task.root=PATH",
    "task=image_folder": "name their folder with task.root=PATH",
    "net=preact_resnet18": "made for images of 32x32",
    "attack.data._target_=collections.OrderedDict": "collections.OrderedDict is outside",
    "attack=[badnets,backdoor]": "two of them fill the slot data",
    "seed=": "seed",
    "attack": "attack",
    "compose": "compose",
}


@pytest.mark.parametrize("word", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(here, capsys, word):
    given = [
        w
        for w in TINY
        if w.split("=")[0] != word.split("=")[0]
        and not (word.startswith("task=") and w.startswith("net."))  # a task brings its own network
        and not (word.startswith(("task=", "net=")) and w.split(".")[0].split("=")[0] == word[: word.index("=")])
    ]
    plugins = [w for w in ("attack=backdoor", "defense=spectral") if w.split("=")[0] != word.split("=")[0]]
    assert entry([*given, *plugins, word]) == 2
    told = capsys.readouterr()
    assert MISTAKES[word] in told.err
    assert told.err.startswith("poisonbench: ")
    assert "Traceback" not in told.err + told.out
    assert len(told.err.strip().splitlines()) == 1
    assert not list(here.iterdir())


def test_a_rate_beyond_the_rows_that_can_be_poisoned_is_refused(here, capsys):
    assert entry([*TINY, "attack=backdoor", "threat.budget.rate=0.9"]) == 2
    assert "can be poisoned; lower threat.budget.rate" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_a_results_folder_that_cannot_be_made_is_refused(here, capsys):
    (here / "file").write_text("")
    assert entry([*TINY, f"results_dir={here}/file"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_sweep_writes_where_results_dir_says_whatever_the_default_is(here, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("results").touch()  # no folder can be made there
    assert entry(["-m", *TINY, "attack=none", "seed=100,101", f"results_dir={tmp_path / 'mine'}"]) == 0
    assert len(list((tmp_path / "mine" / "records").iterdir())) == 2


def test_a_missing_data_folder_is_named(here, capsys):
    assert entry(["task=cifar10", f"task.root={here}/nowhere"]) == 2
    assert "no folder at task.root=" in capsys.readouterr().err


def torn(folder: Path) -> None:
    path = folder / "train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def wrong_label(folder: Path) -> None:
    write_parquet(folder / "train-00000-of-00002.parquet", [0, 100], labels=[0, 9])


def wrong_size(folder: Path) -> None:
    write_parquet(folder / "test.parquet", [0, 100], size=(5, 4))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (torn, "cannot be read as parquet"),
        (wrong_label, "row 1: the label is 9, but the metadata of the file names only 2 classes"),
        (wrong_size, "give both one shape"),
    ],
)
def test_damaged_data_is_one_sentence_and_leaves_nothing_behind(parquets, here, capsys, damage, says):
    damage(parquets)
    before = sorted(path.name for path in here.iterdir())
    assert entry(["task=parquet", f"task.root={parquets}", "attack=backdoor"]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert len(told.strip().splitlines()) == 1
    assert sorted(path.name for path in here.iterdir()) == before


def test_the_filter_that_is_matched_at_random_can_be_named():
    from poisonbench.config.compose import tree_of

    tree = tree_of(["defense=random_drop", "defense@defense.sanitize.like=spectral", "defense.sanitize.like.sanitize.margin=3.0"])
    assert tree["defense"]["sanitize"]["like"]["sanitize"]["margin"] == 3.0


def test_a_failure_while_computing_is_a_failed_record_and_is_tried_again(here, capsys):
    words = [*TINY, "learner.lr=1e9"]
    assert entry(words) == 1
    told = capsys.readouterr()
    (path,) = records(here)
    record = read(path)
    assert (record.status, "not finite in epoch" in record.reason) == ("failed", True)
    assert "Traceback" in told.err
    assert entry(words) == 1


def test_a_slot_that_cannot_be_honoured_is_a_skipped_record(here, capsys, monkeypatch):
    from poisonbench.learn.central import Central

    monkeypatch.setattr(Central, "stages", frozenset({"attack.data"}))
    assert entry([*TINY, "defense=spectral"]) == 0
    assert "skipped, Central has no place for defense.sanitize" in capsys.readouterr().out
    assert read(records(here)[0]).status == "skipped"


def test_two_defenses_are_joined_slot_by_slot():
    from poisonbench.config.compose import tree_of

    tree = tree_of(["defense=[none,spectral]", "defense.sanitize.margin=2.0"])
    assert tree["defense"]["sanitize"]["margin"] == 2.0


def test_a_sweep_goes_on_after_a_bad_cell_and_reports_the_worst_code(here, capsys):
    assert entry(["-m", *TINY, "attack=backdoor", "attack.data.target=9,0"]) == 2
    assert len(records(here)) == 1


@pytest.mark.parametrize(
    ("words", "says"), [(["--help"], "spectral"), (["list"], "spectral"), (["list", "defense"], "spectral"), (["--version"], "poisonbench ")]
)
def test_help_lists_and_the_version_do_not_import_torch(tmp_path, words, says):
    code = f"import sys; sys.argv[1:] = {words!r}\nfrom poisonbench.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    done = python("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout


def test_what_a_run_says_reaches_a_pipe_at_once(tmp_path):
    """The log of a run that is killed would be lost otherwise."""
    told = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = ["task=blobs", "net=tiny", "learner.epochs=400", "threads=1", "attack=backdoor"]
    command = [sys.executable, "-m", "poisonbench", *words]
    with subprocess.Popen(command, cwd=tmp_path, env=told | {"PYTHONPATH": str(HOME)}, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("poison: made in")
        assert run.poll() is None, "it ended before its first line was read"
        run.kill()


def test_a_run_on_digits_imports_nothing_that_takes_long_beside_torch(tmp_path):
    """Training, a filter, the figures: none needs scikit-learn, or torch's compiler, of 1.2 s of processor time each."""
    heavy = ("sklearn", "scipy.stats", "pandas", "torch._dynamo", "torchvision", "opacus", "wandb", "jinja2")
    words = ["task.limit=60", "learner.epochs=1", "net=tiny", "threads=1", "attack=backdoor", "defense=spectral"]
    code = f"import sys; from poisonbench.cli import entry\ncode = entry({words!r})\nsys.exit(code or ' '.join(set({heavy}) & set(sys.modules)) or 0)"
    done = python("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--nonsense"], 2), (["sed=1"], 2), (["attack=bakdoor"], 2)])
def test_help_and_unknown_options_take_less_than_a_second_of_processor_time(tmp_path, words, code):
    import resource

    seconds = []
    for _ in range(3):  # the first may find cold files
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "poisonbench", *words, cwd=tmp_path).returncode == code
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 1


def test_a_folder_with_its_own_attacks_and_configs_still_finds_ours(tmp_path):
    for name in ("attacks", "defenses", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemError('a stranger')")
    done = python("-m", "poisonbench", *TINY, "attack=backdoor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_foreign_package_that_is_already_imported_is_refused_in_words(tmp_path):
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "__init__.py").write_text("")
    done = python("-c", "import sys; sys.path.insert(0, '.')\nimport attacks, poisonbench; poisonbench.run('task=blobs')", cwd=tmp_path)
    assert "a package called attacks that is not poisonbench's is already imported" in done.stderr


def test_ctrl_c_exits_with_130_and_the_same_command_goes_on(tmp_path):
    words = [sys.executable, "-m", "poisonbench", "attack=backdoor", "defense=spectral", "learner.epochs=400", "threads=1"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background starts deaf to interrupts
    told = {**os.environ, "PYTHONPATH": str(HOME)}
    child = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=told, preexec_fn=heard)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("results/store/poison-*.sha256")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not records(tmp_path)
    assert not [path for path in tmp_path.rglob("*.tmp")]


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from poisonbench.core.attack import Poisoned
from poisonbench.core.goals import NoGoal

@dataclass(frozen=True, kw_only=True)
class Silence:
    VERSION: ClassVar[int] = 1
    share: float

    def poison(self, known, rng):
        rows = rng.pick(known.rows.ids, int(self.share * known.budget.rows(len(known.rows))))
        mask = torch.zeros(len(known.rows), dtype=torch.bool)
        mask[rows] = True
        data = known.rows.edit(rows, inputs=torch.zeros_like(known.rows.inputs[rows]))
        return Poisoned(data=data, mask=mask, goal=NoGoal())
"""


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "my_lab" / "configs" / "attack").mkdir(parents=True)
    (tmp_path / "my_lab" / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "configs" / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "silence.py").write_text(PLUGIN)
    tree = "_target_: poisonbench.core.attack.Attack\ndata:\n  _target_: my_lab.silence.Silence\n  share: 1.0\n"
    (tmp_path / "my_lab" / "configs" / "attack" / "silence.yaml").write_text(tree)
    return tmp_path


def test_a_plugin_outside_the_repository_runs_when_it_is_trusted(lab):
    words = ("-m", "poisonbench", *TINY, "hydra.searchpath=[pkg://my_lab.configs]", "attack=silence")
    refused = python(*words, cwd=lab)
    assert refused.returncode == 2
    assert "my_lab.silence.Silence is outside" in refused.stderr
    done = python(*words, "trust=my_lab.", "attack.data.share=0.5", cwd=lab)
    assert done.returncode == 0, done.stderr
    assert read(records(lab)[0]).spec["attack"]["name"] == "silence"
    assert read(records(lab)[0]).counts["poisoned"] == 9


SLY = """# @package _global_
trust: my_lab.
attack:
  _target_: poisonbench.core.attack.Attack
  data:
    _target_: my_lab.silence.Silence
    share: 1.0
"""


def test_trust_does_not_count_in_a_configuration_file(lab):
    (lab / "my_lab" / "configs" / "attack" / "sly.yaml").write_text(SLY)
    done = python("-m", "poisonbench", *TINY, "hydra.searchpath=[pkg://my_lab.configs]", "attack=sly", cwd=lab)
    assert done.returncode == 2
    assert not records(lab)


def test_commands_write_paths_of_a_machine_as_data(tmp_path, monkeypatch):
    (tmp_path / "cifar10").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["task=cifar10", f"task.root={tmp_path}/cifar10", "seed=1", "results_dir=elsewhere", "net.widths=[8,16]"]
    assert portable(words) == "python -m poisonbench task=cifar10 task.root=$DATA/cifar10 seed=1 'net.widths=[8,16]'"
    assert portable(["task.root=./cifar10"]) == "python -m poisonbench task.root=$DATA/cifar10"


REFUSED = {
    ("defense=dpa", "defense.train.parts=100000"): "there are 380 training rows",
    ("defense=dpa", "defense.train.member=kernel_ridge"): "as in +learner@defense.train.member=kernel_ridge",
    ("attack=federated", "defense=krum", "threat.budget.clients=0.45"): "needs n >= 2 f + 3",
    ("attack=federated", "task.clients=5000"): "gets none of the",
    ("attack=federated", "threat.budget.clients=0.01"): "selects none",
    ("attack=federated", "net.norm=batch"): "set net.norm=group",
    ("attack=sig", "threat.budget.rate=0.4"): "can be poisoned",
    ("attack=bullseye_polytope", "threat.budget.rate=0.4", "threat.trials=2"): "can be poisoned",
    ("attack=targeted", "task.public=0"): "set task.public",
    ("attack=targeted", "threat.trials=0"): "threat.trials=0",
    ("attack=error_minimizing", "threat=default"): "threat.budget.norm=linf",
    ("defense=dp_sgd", "defense.train.step.epsilon=0"): "above 0",
    ("defense=dp_sgd", "defense.train.step.delta=0.5"): "delta stays below 1 / N",
    ("defense=dp_sgd", "net.norm=batch"): "set net.norm=group",
    ("defense=strip", "task.trusted=0"): "set task.trusted",
    ("attack=federated", "defense=fltrust", "task.trusted=0"): "set task.trusted",
    ("attack=label_flip", "attack.data.mode=pairs"): "did you mean pair?",
    ("defense=krum", "defense.aggregate.variant=papr"): "did you mean paper?",
    ("owners=dirichlet", "owners.alpha=0", "task.clients=3"): "alpha",
    ("attack=federated", "threat.rounds=[5,2]"): "first round",
}


@pytest.mark.parametrize("words", list(REFUSED), ids=" ".join)
def test_what_cannot_be_run_is_one_sentence_without_a_record(here, capsys, words):
    assert entry(tiny_words(*words)) == 2
    told = capsys.readouterr()
    assert REFUSED[words] in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert not records(here)


def test_a_round_in_which_every_training_diverged_is_a_failed_record_that_names_it(here):
    assert entry(tiny_words("attack=federated", "learner.client.lr=1e18")) == 1
    record = read(records(here)[0])
    assert record.status == "failed"
    assert "round 1, every training diverged" in record.reason


def test_a_slot_held_by_a_null_object_gives_way():
    from poisonbench.config.compose import tree_of

    for names in ("[badnets,alie]", "[alie,badnets]"):
        plan = tree_of([f"attack={names}"])["attack"]
        assert plan["data"]["_target_"].endswith("BadNets")
        assert plan["update"]["_target_"].endswith("Alie")
