"""The commands and examples of README and CONTRIBUTING are run here as they are written."""

import re
import shlex

import pytest

from poisonbench.config.compose import tree_of
from poisonbench.runner.experiment import HOME
from tests.conftest import TINY
from tests.reliability.__main__ import Case, outcome
from tests.reliability.test_command_line import python, records

README = (HOME / "README.md").read_text()
CONTRIBUTING = (HOME / "CONTRIBUTING.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_attack_of_the_guide_runs_from_a_folder_outside_the_repository(tmp_path):
    (tmp_path / "my_lab" / "configs" / "attack").mkdir(parents=True)
    for package in ("my_lab", "my_lab/configs"):
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "stripe.py").write_text(blocks(CONTRIBUTING, "python")[0])
    (tmp_path / "my_lab" / "configs" / "attack" / "stripe.yaml").write_text(blocks(CONTRIBUTING, "yaml")[0])
    (command,) = [line for line in blocks(CONTRIBUTING, "bash")[0].splitlines() if "stripe" in line]
    done = python(*shlex.split(command)[1:], *TINY, "threat.budget.rate=0.2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stripe against spectral on blobs" in done.stdout
    assert len(records(tmp_path)) == 1


def test_the_python_example_of_the_readme_runs(tmp_path):
    done = python("-c", blocks(README, "python")[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    undefended, _ = map(float, done.stdout.split()[-2:])
    assert undefended > 0.9


COMMANDS = [line.partition("#")[0].strip() for block in blocks(README, "bash") for line in block.splitlines() if line.startswith("python -m poisonbench ")]


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if "my_lab" not in command and " audit " not in command and " report " not in command]
)  # audit takes several filters for one slot
def test_every_command_of_the_readme_composes(command):
    words = [word for word in shlex.split(command)[3:] if word not in ("-m", "--dry-run")]
    tree_of([word if "[" in word else word.split(",")[0] for word in words])


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 5


def test_a_test_belongs_to_its_file_its_folder_and_itself():
    case = Case(node="tests/unit/report/test_a.py::test_b", seconds=1.5, status="passed")
    assert case.belongs(("tests/unit/report/test_a.py::test_b",))
    assert case.belongs(("tests/unit/report/test_a.py",))
    assert case.belongs(("tests/unit/report",))
    assert not case.belongs(("tests/unit/rep", "tests/unit/report/test_a.py::test_", "tests/unit/report/test_a"))
    assert outcome([case, Case(node="", seconds=1.0, status="failed")]) == "1 passed, **1 failed**, 2 s"
