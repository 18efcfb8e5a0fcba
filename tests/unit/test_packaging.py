"""What is handed out beside the code: the wheel, the lock files, the version, and the files that name it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import poisonbench
from poisonbench.cli import entry
from poisonbench.config.vocabulary import options
from poisonbench.core.plugins import HOME
from poisonbench.storage.record import provenance, version
from tests.conftest import TINY

PACKAGES = ("poisonbench", "attacks", "defenses", "configs")
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
GPU = ("nvidia-", "cuda-", "triton")  # what a CPU build of torch does not need
RUN = f"""
import sys
from pathlib import Path
import attacks, poisonbench
from poisonbench.cli import entry
from poisonbench.report.__main__ import main as leaderboard

assert all(Path(sys.prefix) in Path(package.__file__).parents for package in (attacks, poisonbench)), poisonbench.__file__
assert entry({[*TINY, "attack=backdoor", "defense=spectral", "threat.budget.rate=0.2"]!r}) == 0
(record,) = Path("results/records").glob("*.json")
assert entry(["verify", str(record)]) == 0
assert entry(["describe", "badnets"]) == 0
assert entry(["audit", "task=blobs", "net=tiny", "learner.epochs=2", "threads=1", "defense=spectral"]) == 0
assert leaderboard([]) == 0
assert Path("results/leaderboard/index.html").stat().st_size > 10_000
assert entry(["report", "trigger_size.svg"]) == 2
"""


def done(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    told = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300, env=told, check=False)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Return the wheel that is built from the source distribution, as `python -m build` does it; nothing is downloaded."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for package in PACKAGES:  # a copy, as setuptools leaves folders of its own in the source and packs what it finds in them
        shutil.copytree(HOME / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOME / name, source)
    packed = done(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})", cwd=source)
    assert packed.returncode == 0, packed.stderr
    (archive,) = out.glob("*.tar.gz")
    offline = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    built = done(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(out), str(archive), cwd=source)
    assert built.returncode == 0, built.stderr
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """Return a new virtual environment with the wheel, which sees the packages of this one but not the clone."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    assert done(sys.executable, "-m", "venv", "--without-pip", str(place), cwd=place.parent).returncode == 0
    python = place / "bin" / "python"
    added = done(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=place.parent)
    assert added.returncode == 0, added.stderr
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return place


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    there = {str(path.relative_to(HOME)) for package in PACKAGES for path in (HOME / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("licenses/LICENSE") for name in file.namelist())
    assert held == there


def test_the_wheel_lists_its_methods_and_says_its_version_from_an_empty_folder(installed, tmp_path):
    listed = done(str(installed / "bin" / "python"), "-m", "poisonbench", "list", cwd=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert f"attack: {', '.join(options('attack'))}\n" in listed.stdout
    told = done(str(installed / "bin" / "poisonbench"), "--version", cwd=tmp_path)
    assert (told.returncode, told.stdout, told.stderr) == (0, f"poisonbench {PROJECT['version']}\n", "")
    assert not list(tmp_path.iterdir())


def test_the_wheel_runs_verifies_and_reports_from_an_empty_folder(installed, tmp_path):
    ran = done(str(installed / "bin" / "python"), "-c", RUN, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "verified, every figure is equal" in ran.stdout
    assert ran.stdout.count("the published records are in a clone of poisonbench, not in the installed package") == 2, "describe and audit say so"
    assert ran.stderr.startswith("poisonbench: no records of +experiment=trigger_size")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["attack=none", "--version"]])
def test_the_version_is_that_of_the_clone(capsys, words):
    assert entry(words) == 0
    assert capsys.readouterr().out == f"poisonbench {PROJECT['version']}\n"
    assert provenance()["versions"]["poisonbench"] == poisonbench.__version__ == version() == PROJECT["version"]


def lock(name: str) -> dict[str, str]:
    return dict(line.split("==") for line in (HOME / name).read_text().splitlines())


def test_the_cpu_lock_file_is_the_other_one_without_what_a_gpu_needs():
    full, cpu = lock("constraints.txt"), lock("constraints-cpu.txt")
    assert list(cpu) == [name for name in full if not name.startswith(GPU)], "repeat in constraints-cpu.txt what changed in constraints.txt"
    assert {name for name in cpu if cpu[name] != full[name]} == {"torch", "torchvision"}
    assert cpu["torch"].endswith("+cpu"), "any other build would bring the CUDA libraries along"


def makes(*words: str) -> str:
    apart = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}  # `make test` runs this as a child of make
    return subprocess.run(["make", "--dry-run", *words], cwd=HOME, env=apart, capture_output=True, text=True, check=False).stdout


def test_make_installs_the_kind_of_torch_that_is_asked_for_and_keeps_it(tmp_path):
    place = f"VENV={tmp_path}"
    assert "-c constraints.txt" in makes("setup", place)
    assert "-c constraints-cpu.txt --extra-index-url mine" in makes("demo", place, "TORCH=cpu", "INDEX=mine")
    (tmp_path / ".ready-cpu").touch()
    assert "pip install" not in makes("demo", place)
    assert f"-m venv --clear {tmp_path}" in makes("demo", place, "TORCH=cuda")
    assert not makes("setup", place, "TORCH=gpu")


def test_citation_and_changelog_name_the_version_of_the_project():
    cited = yaml.safe_load((HOME / "CITATION.cff").read_text())
    (newest, date), *_ = re.findall(r"^## \[(\S+)\] - (\S+)$", (HOME / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited["version"] == newest == PROJECT["version"]
    assert str(cited["date-released"]) == date
    assert (cited["license"], cited["authors"]) == (PROJECT["license"], [{"name": "The poisonbench authors"}])


def test_the_image_gets_what_the_package_and_its_lock_files_need():
    sent = {line[1:] for line in (HOME / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    needed = {*PACKAGES, *PROJECT["license-files"], PROJECT["readme"], "pyproject.toml", "constraints.txt", "constraints-cpu.txt"}
    assert sent == needed
    assert all((HOME / name).exists() for name in sent)


@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_the_page_on_licences_has_a_row_for_every_method(kind):
    page = (HOME / "docs" / "ethics.md").read_text()
    table = page.partition(f"\n| {kind} | paper |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| (paper|facts|library|-) \|$", table, re.MULTILINE)
    assert sorted(name for name, *_ in rows) == options(kind)
    aliases = {name for name, paper, *_ in rows if paper.startswith("alias of")}
    assert {name for name, *_, used in rows if used == "-"} == {"none", "oracle", "random_drop", "random_label_targeted", *aliases} & set(options(kind))
