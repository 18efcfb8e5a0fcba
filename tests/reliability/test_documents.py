"""The commands and examples of README, CONTRIBUTING and docs/ are run here as they are written, and their links are followed."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from poisonbench.commands.audit import suite_names, with_defaults
from poisonbench.commands.report import ROUNDS
from poisonbench.config.compose import options, tree_of
from poisonbench.core.plugins import HOME
from tests.conftest import TINY
from tests.reliability.__main__ import PAGE, ROWS, Case, outcome
from tests.reliability.test_command_line import python, records

PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(HOME)): path.read_text(encoding="utf-8") for path in PAGES}
README, RUN, EXTEND = (TEXTS[name] for name in ("README.md", "docs/guide/run.md", "docs/guide/extend.md"))
PROGRAM = "python -m poisonbench "
FLAGS = ("-m", "--dry-run")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str, program: str) -> list[list[str]]:
    """Return the words of every line of a bash block that starts with `program`, without it."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines() if line.startswith(program)]
    return [shlex.split(line.removeprefix(program), comments=True) for line in lines]


ASKED = sorted({shlex.join(words) for text in TEXTS.values() for words in commands(text, PROGRAM)})


def is_command(word: str) -> bool:
    return (HOME / "poisonbench" / "commands" / f"{word}.py").is_file()


def test_the_attack_of_the_guide_runs_from_a_folder_outside_the_repository(tmp_path):
    (tmp_path / "my_lab" / "configs" / "attack").mkdir(parents=True)
    for package in ("my_lab", "my_lab/configs"):
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "stripe.py").write_text(blocks(EXTEND, "python")[0])
    (tmp_path / "my_lab" / "configs" / "attack" / "stripe.yaml").write_text(blocks(EXTEND, "yaml")[0])
    (words,) = [words for words in commands(EXTEND, PROGRAM) if "attack=stripe" in words]
    done = python("-m", "poisonbench", *words, *TINY, "threat.budget.rate=0.2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stripe against spectral on blobs" in done.stdout
    assert len(records(tmp_path)) == 1


def test_the_python_example_of_the_readme_runs(tmp_path):
    done = python("-c", blocks(README, "python")[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    undefended, _ = map(float, done.stdout.split()[-2:])
    assert undefended > 0.9


def test_the_guide_repeats_the_examples_of_the_readme():
    assert blocks(README, "python") == blocks(RUN, "python")
    assert blocks(README, "text") == blocks(RUN, "text")


@pytest.mark.parametrize("line", [line for line in ASKED if "my_lab" not in line and not is_command(shlex.split(line)[0])])
def test_every_run_and_sweep_of_the_documents_composes(line):
    words = [word for word in shlex.split(line) if word not in FLAGS]
    tree_of([word if "[" in word else word.split(",")[0] for word in words])


@pytest.mark.parametrize("line", [line for line in ASKED if is_command(shlex.split(line)[0])])
def test_every_command_of_the_documents_exists_and_takes_its_words(line):
    command, *words = shlex.split(line)
    usage = importlib.import_module(f"poisonbench.commands.{command}").USAGE
    assert usage.call.startswith(command)
    if command == "audit":
        named = [word.removeprefix("defense=").strip("[]").split(",") for word in words if word.startswith("defense=")]
        assert len(named) <= 1
        for each in named[0] if named else suite_names():
            tree_of([*with_defaults([word for word in words if not word.startswith(("defense=", "apply=", "short="))]), f"defense={each}"])
    if command == "report":
        assert all((HOME / word).is_file() and (word.endswith(".md") or Path(word).stem in [*options("experiment"), ROUNDS]) for word in words)


def test_the_documents_have_commands_of_every_sort():
    assert len(ASKED) >= 30
    assert {"audit", "report", "verify", "export"} <= {shlex.split(line)[0] for line in ASKED}


def test_every_target_of_make_in_the_documents_exists():
    targets = re.findall(r"^(\w+):", (HOME / "Makefile").read_text(), re.MULTILINE)
    asked = {words[0] for text in TEXTS.values() for words in commands(text, "make ")}
    assert asked
    assert asked <= set(targets)


def test_the_index_links_to_every_page():
    index = TEXTS["docs/index.md"]
    pages = [name.removeprefix("docs/") for name in TEXTS if re.fullmatch(r"docs/(guide/)?\w+\.md", name) and name != "docs/index.md"]
    assert [page for page in pages if f"]({page}" not in index] == []


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_every_attack_defense_and_task_is_named(name):
    aliases = {"none", "availability", "targeted", "backdoor", "federated", "text", "spam"}
    included = TEXTS[name].partition("## What is included\n")[2]
    assert [option for kind in ("attack", "defense", "task") for option in options(kind) if option not in aliases and f"`{option}`" not in included] == []


def test_the_readme_stays_short():
    assert len(README.splitlines()) <= 180


def test_the_page_on_reliability_has_the_lines_of_its_program():
    text = PAGE.read_text(encoding="utf-8")
    assert [row.what for row in ROWS if f"| {row.what} | {row.passes} |" not in text] == []


def test_a_test_belongs_to_its_file_its_folder_and_itself():
    case = Case(node="tests/unit/report/test_a.py::test_b", seconds=1.5, status="passed")
    assert case.belongs(("tests/unit/report/test_a.py::test_b",))
    assert case.belongs(("tests/unit/report/test_a.py",))
    assert case.belongs(("tests/unit/report",))
    assert not case.belongs(("tests/unit/rep", "tests/unit/report/test_a.py::test_", "tests/unit/report/test_a"))
    assert outcome([case, Case(node="", seconds=1.0, status="failed")]) == "1 passed, **1 failed**, 2 s"
