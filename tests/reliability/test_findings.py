"""The scripts of findings, without running them: they need a package index and are not part of CI."""

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "findings").glob("*"))


def test_there_are_findings():
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_finding_is_executable_bash_of_pinned_packages_and_names_no_place(script):
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n# Finding: ")
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    install = re.search(r"pip\" install(.*?[^\\])\n", text, re.DOTALL)
    assert install
    packages = [word for word in install[1].replace("\\\n", " ").split() if not word.startswith("-")]
    assert packages
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+(post[0-9]+)?", word) for word in packages)
    assert not re.search(r"https?:|/(home|root|work|tmp|opt|Users)\b|poisonbench", text)
