"""The benchmark of an audit on a few pictures: its folder is as described, and all its figures are measured."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import audit_folder
from benchmarks._options import Options


def test_the_folder_has_patched_rows_and_copies_and_no_test_split(tmp_path):
    audit_folder.write_pictures(tmp_path, 200)
    found = {path.name: (path.parent.name, np.asarray(Image.open(path))) for path in tmp_path.glob("*/*.png")}
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"class{label}" for label in range(10)]
    assert len(found) == 200
    white = {name for name, (_, pixels) in found.items() if (pixels[-4:, -4:] == 255).all()}
    assert white == {"000001.png", "000051.png", "000101.png", "000151.png"}
    assert {found[name][0] for name in white} == {"class0"}
    for copy, other in (("000099.png", "000089.png"), ("000199.png", "000189.png")):
        assert (found[copy][1] == found[other][1]).all()
    assert len({pixels.tobytes() for _, pixels in found.values()}) == 198


def test_a_process_that_fails_or_ends_before_the_kill_is_no_figure():
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        audit_folder.ran([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="ended before it was killed"):
        audit_folder.continued("nothing", [sys.executable, "-c", ""], audit_folder.Ran(60.0, 60.0, 1.0), 0.5)


def test_processor_seconds_are_those_of_the_process():
    spend = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", spend], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        used = audit_folder.processor_seconds(process.pid)
        process.communicate(b"\n")
    assert 0.45 < used < 1


def test_the_peak_is_that_of_the_process():
    small, large = (audit_folder.ran([sys.executable, "-c", f"x = bytearray({size} * 2**20); x[::4096] = bytes(len(x[::4096]))"]) for size in (1, 200))
    assert 150 < large.peak - small.peak < 250


@pytest.mark.slow
def test_an_audit_is_repeated_killed_and_continued():
    again, killed, memory = audit_folder.measure(Options(), rows=200, kills=(0.5,))
    assert again.ours_cost[0] < again.alternative_cost[0]
    assert 0 < again.facts["page_mb"] < 5
    assert killed.facts["killed_after_cpu_s"] * 2 == pytest.approx(again.facts["whole_cpu_s"])
    assert memory.ours_cost[0] > memory.alternative_cost[0] > 10
