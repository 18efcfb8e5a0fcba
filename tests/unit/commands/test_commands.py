import dataclasses
import importlib
import json
import re
import sys

import pytest
import yaml
from PIL import Image

from poisonbench.cli import entry
from poisonbench.commands.report import page
from poisonbench.config.compose import tree_of
from poisonbench.config.vocabulary import groups, options
from poisonbench.core.errors import DataError
from poisonbench.core.files import DEPTH
from poisonbench.core.plugins import HOME
from poisonbench.report import ledger
from poisonbench.report.curves import words_of
from poisonbench.report.tables import filled, published, table
from poisonbench.runner.pipeline import run
from poisonbench.storage.record import read
from tests.conftest import TINY


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Return the path of the record of one run, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    assert entry([*TINY, "attack=backdoor", "defense=spectral", "threat.budget.rate=0.1"]) == 0
    (path,) = tmp_path.glob("results/records/*.json")
    return path


def test_a_record_is_verified_from_nothing(record, capsys):
    assert entry(["verify", str(record)]) == 0
    assert "verified, every figure is equal" in capsys.readouterr().out


def test_a_record_that_claims_too_much_is_found_out(record, capsys, monkeypatch):
    import dataclasses

    from poisonbench.storage.record import read

    better = dataclasses.replace(read(record), metrics={**read(record).metrics, "asr": 0.0001})
    path = better.write(record.parent.parent)
    assert entry(["verify", str(path)]) == 1
    assert "metrics.asr: recorded 0.0001, now" in capsys.readouterr().out


def test_a_record_is_drawn(record, capsys):
    picture = record.parent / "picture.png"
    assert entry(["show", str(record), str(picture)]) == 0
    assert entry(["show", str(record)]) == 0
    assert record.with_suffix(".png").read_bytes() == picture.read_bytes()
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 800
        assert len(drawn.convert("L").getcolors()) > 50


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show"], "show RECORD"),
        (["show", "nowhere.json"], "is not a record"),
        (["verify"], "verify RECORD"),
        (["list", "defence"], "did you mean defense?"),
        (["list", "badnets"], "attack=badnets is an option: `describe badnets` explains it"),
        (["describe", "spectrals"], "did you mean spectral?"),
        (["describe", "badnet"], "did you mean badnets?"),
        (["describe", "nowhere.Mine"], "describe nowhere.Mine: no such class"),
        (["describe"], "known: "),
        (["report"], "report FILE"),
        (["report", "nowhere.md"], "no such file"),
        (["report", "flow.svg"], "name the figure like its experiment"),
        (["report", "opacities.svg"], "did you mean opacity?"),
    ],
)
def test_wrong_words_are_one_sentence(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert entry(words) == 2
    told = capsys.readouterr().err
    assert says in told
    assert len(told.strip().splitlines()) == 1


MODULES = {path.stem: importlib.import_module(f"poisonbench.commands.{path.stem}") for path in (HOME / "poisonbench" / "commands").glob("[!_]*.py")}
COMMANDS = sorted(name for name, module in MODULES.items() if hasattr(module, "main"))


@pytest.mark.parametrize("word", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_asked_for_help_says_what_each_of_its_words_means_and_does_nothing_else(tmp_path, monkeypatch, capsys, command, word):
    monkeypatch.chdir(tmp_path)
    assert entry([command, "nonsense=1", word]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"usage: python -m poisonbench {command}")
    assert all(f"  {option}" in told.out for option in MODULES[command].USAGE.options)
    assert max(map(len, told.out.splitlines())) <= 120
    assert not told.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], ["--help", "-m", "seed=0,1"]])
def test_help_names_every_command_every_option_and_every_key(capsys, words):
    assert entry(words) == 0
    told = capsys.readouterr().out
    assert f"one of: {', '.join(COMMANDS)}" in told
    assert all(f"\n{group}: {', '.join(options(group))}\n" in told for group in groups())
    keys = yaml.safe_load(told.partition("any value below with key=value:\n\n")[2].partition("Commands:")[0])
    assert keys["learner"]["net"] == "${net}"


def test_help_shows_the_keys_of_what_the_words_choose(capsys):
    assert entry(["--help", "seed=7", "defense=[spectral,fine_pruning]", "defense.repair.epochs=3"]) == 0
    keys = yaml.safe_load(capsys.readouterr().out.partition("any value below with key=value:\n\n")[2].partition("Commands:")[0])
    assert keys["seed"] == 7
    assert keys["defense"]["repair"]["epochs"] == 3
    assert keys["defense"]["sanitize"]["margin"] == 1.5
    for words in (["--help", "attack=sigg"], ["--help", "-m", "seed=0,1", "attack=sigg"]):
        assert entry(words) == 2
        assert "did you mean sig?" in capsys.readouterr().err
    assert entry(["--help", "-m", "seed=7,8", "attack=sig"]) == 0
    keys = yaml.safe_load(capsys.readouterr().out.partition("any value below with key=value:\n\n")[2].partition("Commands:")[0])
    assert (keys["seed"], keys["attack"]["data"]["frequency"]) == (0, 6.0)


@pytest.mark.parametrize("words", [["help", "audit"], ["--help", "audit"]])
def test_help_explains_a_command(capsys, words):
    assert entry(words) == 0
    assert capsys.readouterr().out.startswith("usage: python -m poisonbench audit")


def test_a_run_without_poison_has_nothing_to_draw(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry([*TINY]) == 0
    (path,) = tmp_path.glob("results/records/*.json")
    assert entry(["show", str(path)]) == 2
    assert "no poisoned rows" in capsys.readouterr().err


def test_a_difference_says_what_the_record_was_made_on_and_what_this_machine_is(record, capsys):
    told = read(record)
    there = dataclasses.replace(told, provenance={**told.provenance, "processor": "another one"}, metrics={**told.metrics, "c_acc": 0.1})
    assert entry(["verify", str(there.write(record.parent))]) == 1
    out = capsys.readouterr().out
    assert f"the record was made on another one, cpu, threads=1, torch {told.provenance['torch']}, this machine is {told.provenance['processor']}, cpu" in out


def test_a_method_is_described_with_its_source_and_fields(capsys):
    assert entry(["describe", "spectral"]) == 0
    out = capsys.readouterr().out
    assert "Tran, Li, Madry" in out
    assert "defense.sanitize.margin=1.5" in out


@pytest.mark.parametrize("name", ["badnets", "backdoor"])
def test_a_method_has_the_cost_of_all_records_that_ran_it_whatever_it_was_called(capsys, name):
    assert entry(["describe", name]) == 0
    assert re.search(r"cost: .*digits \(1365 rows\) [0-9.]+ s", capsys.readouterr().out)


MINE = "_target_: poisonbench.core.attack.Attack\ndata:\n  _target_: my_lab.stripe.Stripe\n  row: 3\n"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A plugin outside the project, whose code fails where it is run."""
    (tmp_path / "my_lab" / "configs" / "attack").mkdir(parents=True)
    for package in ("my_lab", "my_lab/configs"):
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "stripe.py").write_text('raise SystemError\nclass Stripe:\n    """Paint a stripe."""\n\n    row: int\n')
    (tmp_path / "my_lab" / "configs" / "attack" / "mine.yaml").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


def test_a_method_may_be_named_with_its_group(capsys):
    assert entry(["describe", "attack=sig"]) == 0
    assert capsys.readouterr().out.startswith("attack=sig: Sig\n")


def test_a_plugin_of_ones_own_is_described_by_its_option(lab, capsys):
    assert entry(["describe", "mine", "hydra.searchpath=[pkg://my_lab.configs]"]) == 0
    out = capsys.readouterr().out
    assert all(told in out for told in ("attack=mine: Stripe", "Paint a stripe.", "attack.data.row=3", "no published record of it"))


def test_a_class_is_described_by_its_path_and_not_run(lab, capsys):
    assert entry(["describe", "my_lab.stripe.Stripe"]) == 0
    out = capsys.readouterr().out
    assert "Paint a stripe." in out
    assert "  row: int" in out
    assert "my_lab.stripe" not in sys.modules


@pytest.mark.parametrize(
    ("name", "places"),
    [("federated", ("attack=", "learner=", "threat=")), ("poisonedrag", ("attack=", "task=", "writer=")), ("retrieval", ("learner=",))],
)
def test_a_name_of_several_groups_is_described_in_each(capsys, name, places):
    assert entry(["describe", name]) == 0
    out = capsys.readouterr().out
    assert all(f"{place}{name}: " in out for place in places)


def test_the_doctor_finds_this_machine_well(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry(["doctor"]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_the_doctor_says_what_is_broken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert entry(["doctor"]) == 1
    assert "FAILED" in capsys.readouterr().out


SELECTED = (
    ("attack=backdoor", "threat.budget.rate=0.2"),
    (),
    ("attack=sign_flip",),
    ("attack=backdoor", "threat.budget.rate=0.2", "defense=dpa", "defense.train.parts=5"),
    ("attack=backdoor", "threat.budget.rate=0.2", "defense=strip", "defense.screen.overlays=5"),
    ("attack=backdoor", "threat.budget.rate=0.2", "defense=neural_cleanse", "defense.repair.steps=20"),
)


def test_a_table_folds_seeds_into_a_mean_and_a_range(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert entry(["-m", *TINY, "attack=backdoor", "defense=spectral", "seed=0,1,2"]) == 0
    records = published(tmp_path / "results" / "records")
    (line,) = table(records).splitlines()[2:]
    assert "| blobs | badnets | 5 % | spectral |" in line
    assert "| 3 |" in line
    values = [100 * record.undefended["asr"] for record in records]
    mean, smallest, largest = (f"{value:.1f}" for value in (sum(values) / 3, min(values), max(values)))
    assert (mean if smallest == largest else f"{mean} ({smallest} to {largest})") in line
    text = filled("before\n<!-- records: blobs -->\nold\n<!-- end -->\nafter\n", records)
    assert "old" not in text
    assert line in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "docs/performance.md", "docs/ledger.md"])
def test_the_pages_show_what_the_records_say(name):
    text = (HOME / name).read_text()
    assert page(text, published(HOME / "results" / "records"), HOME / "results") == text


def test_the_ledger_says_what_its_records_say():
    records = {record.key: record for record in published(HOME / "results" / "records")}
    entries = [entry for path in (HOME / "results" / "ledger").glob("*.json") for entry in ledger.read(path)]
    assert entries
    assert [ledger.measured(told, records) for told in entries] == entries


def test_a_ledger_of_another_form_or_about_no_record_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('[{"claim": "x"}]')
    with pytest.raises(DataError, match="every entry needs the fields"):
        ledger.read(tmp_path / "a.json")
    for text in ("NaN", "{}", "[" * (DEPTH + 1) + "]" * (DEPTH + 1)):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DataError, match="is not a ledger"):
            ledger.read(tmp_path / "a.json")
    with pytest.raises(DataError, match="not in results/records"):
        ledger.measured({"figure": "metrics.asr", "records": ["0"]}, {})


def test_a_block_selects_by_attack_defense_and_learner_and_leaves_empty_columns_out(tiny, store):
    records = [dataclasses.replace(run(tiny(*words), store), command=f"python -m poisonbench {' '.join(words)}") for words in SELECTED]
    text = filled("<!-- records: blobs attack=badnets,none defense=none learner=Central -->\n<!-- end -->", records)
    assert "| badnets | 20 % | none |" in text
    assert "AUROC" not in text  # no filter ran
    assert len(text.splitlines()) == 6
    text = filled("<!-- records: blobs learner=Federated -->\n<!-- end -->", records)
    assert "C-Acc lost" in text
    text = filled("<!-- worst: blobs learner=Federated -->\n<!-- end -->", records)
    assert "| defense | sign_flip | worst case |" in text
    assert f"| none | {100 * records[2].metrics['c_acc']:.1f} | {100 * records[2].metrics['c_acc']:.1f} (sign_flip) |" in text
    assert words_of(records[2].command) == {"attack": "sign_flip"}
    text = filled("<!-- records: blobs defense=dpa,strip,neural_cleanse -->\n<!-- end -->", records)
    assert all(words in text for words in ("median radius", "screened", "AUROC", "anomaly index"))


def test_a_selection_prints_its_cells_in_the_order_given_and_refuses_one_without_a_record(tiny, store):
    records = [dataclasses.replace(run(tiny(*words), store), command=f"python -m poisonbench {' '.join(words)}") for words in SELECTED[:2]]
    text = filled("<!-- selected:\nblobs | none | | none |\nblobs | badnets | 20 % | none |\n-->\nold\n<!-- end -->", records)
    clean, poisoned = text.splitlines()[6:-1]
    assert clean.startswith("| blobs | none |  | none |  | 1 |")
    assert poisoned.startswith("| blobs | badnets | 20 % | none |  | 1 |")
    with pytest.raises(DataError, match="no record of the cell"):
        filled("<!-- selected:\nblobs | sig | 5 % | none |\n-->\n<!-- end -->", records)


def test_published_records_name_no_place_of_a_machine():
    for path in (HOME / "results" / "records").glob("*.json"):
        text = path.read_text()
        assert not re.search(r"""["'= ]~?/\w+/""", text), path
        told = json.loads(text)
        assert told["status"] == "done" or (told["status"] == "skipped" and told["reason"])
        assert not told["provenance"]["dirty"], path


def test_constraints_hold_names_and_versions_alone():
    lines = (HOME / "constraints.txt").read_text().splitlines()
    assert lines
    assert not [line for line in lines if "://" in line or "@" in line or "==" not in line]


def test_wandb_hears_of_a_record_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert entry([*TINY, "tracker=wandb"]) == 0
    assert list(tmp_path.glob("results/wandb/offline-run-*"))


def test_a_configuration_is_plain_values():
    assert json.loads(json.dumps(tree_of(list(TINY))))["seed"] == 0


def test_the_readmes_first_table_is_that_of_its_record():
    import io
    from pathlib import Path

    from rich.console import Console

    from poisonbench.storage.record import read
    from poisonbench.terminal import show_record

    text = (HOME / "README.md").read_text()
    (key,) = re.findall(r"record: results/local/records/(\w+)\.json", text)
    stream = io.StringIO()
    show_record(Console(file=stream, width=80), read(HOME / "results" / "records" / f"{key}.json"), Path(f"results/local/records/{key}.json"))
    assert "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) in text
