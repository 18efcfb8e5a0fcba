"""The audit of a folder of pictures without a test split: its time, a second time, after a kill, its memory and the size of its page."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from benchmarks._commands import HOME
from benchmarks._options import Options
from benchmarks._setting import made_up
from poisonbench.report.benchmarks import Comparison

SIDE, CLASSES = 32, 10
POLL = 0.1  # seconds
PATCHED, COPIED = 50, 100  # one row in so many has a white patch and the label 0; one in so many repeats another row

FLOATS = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
np.stack([np.asarray(Image.open(path), dtype=np.float32) / 255 for path in sorted(Path(sys.argv[1]).rglob("*.png"))])
"""

# A new process counts the memory of the one that starts it into its peak, and this one has torch in memory; so a small process watches.
WATCHED = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, process.returncode)
"""


class Ran(NamedTuple):
    """One process.

    Args:
        seconds: wall-clock.
        cpu: processor seconds.
        peak: largest resident memory, in MiB.
    """

    seconds: float
    cpu: float
    peak: float


def measure(options: Options, *, rows: int = 20_000, kills: tuple[float, ...] = (0.5, 0.9)) -> Iterator[Comparison]:
    """Yield an audit by all filters that is repeated, one for each kill that is continued after it, and its memory.

    A kill comes after a share of the processor time that the whole audit took, which depends less on other processes than the wall clock does.
    Finished models and verdicts are kept, so what is lost is the training or the verdict that was being computed. With 2,000 pictures the training
    of the first model takes more than half of the time, so a kill at one half loses all of it.

    Args:
        options: not used.
        rows: pictures.
        kills: shares of the processor time.

    Raises:
        RuntimeError: a process failed, or the continued audit gave other rows than the whole one.
    """
    with tempfile.TemporaryDirectory() as place:
        data, first = Path(place) / "data", Path(place) / "first"
        write_pictures(data, rows)
        work = f"audit of {rows} pictures of {SIDE}x{SIDE} in a folder without a test split, all filters that fit"
        whole, again = ran(audit(data, first)), ran(audit(data, first))
        page = pages(first)["index.html"]
        facts = {"rows": rows, "whole_s": whole.seconds, "whole_cpu_s": whole.cpu, "whole_peak_mib": whole.peak, "page_mb": len(page) / 1e6}
        yield Comparison(
            work=work,
            ours="the same command again",
            alternative="the first time",
            unit="s",
            ours_cost=(again.seconds,),
            alternative_cost=(whole.seconds,),
            note=f"the page has {len(page) / 1e6:.2g} MB",
            facts=facts,
        )
        for share in kills:
            other = Path(place) / f"killed at {share}"
            yield continued(work, audit(data, other), whole, share)
            if pages(other) != pages(first):
                raise RuntimeError("the audit that was killed and continued gave other files than the whole one")
        floats = ran([sys.executable, "-c", FLOATS, str(data)])
        yield Comparison(
            work=work,
            ours="largest resident memory of the audit",
            alternative="a process that reads all pictures as float32, with PIL and NumPy",
            unit="MiB",
            ours_cost=(whole.peak,),
            alternative_cost=(floats.peak,),
            facts={"rows": rows},
        )


def continued(work: str, words: Sequence[str], whole: Ran, share: float) -> Comparison:
    """Return the cost of an audit that is killed after a share of the processor time of the whole one, and then run again, against the whole one.

    Raises:
        RuntimeError: it ended before the kill.
    """
    until = share * whole.cpu
    with subprocess.Popen(list(words), cwd=HOME, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and processor_seconds(process.pid) < until:
            time.sleep(POLL)
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(words)} ended before it was killed, after less than {until:.3g} processor seconds")
        process.kill()
    rest = ran(words)
    return Comparison(
        work=work,
        ours=f"the same command after a kill at {share:.0%} of the processor time",
        alternative="the first time, without a kill",
        unit="s",
        ours_cost=(rest.seconds,),
        alternative_cost=(whole.seconds,),
        note=f"both parts take {until + rest.cpu:.3g} processor seconds, the whole audit {whole.cpu:.3g}",
        facts={"killed_after_cpu_s": until, "continued_cpu_s": rest.cpu, "lost_cpu_s": until + rest.cpu - whole.cpu},
    )


def audit(data: Path, results: Path) -> list[str]:
    """Return the command that audits a folder of pictures."""
    words = ("audit", "task=image_folder", f"task.root={data}", f"results_dir={results}", f"threads={torch.get_num_threads()}")
    return [sys.executable, "-m", "poisonbench", *words]


def environment() -> dict[str, str]:
    """Return the environment of processes that import this version of the project."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))}


def processor_seconds(pid: int) -> float:
    """Return the processor seconds that a process has used so far; Linux alone tells them."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ran(words: Sequence[str]) -> Ran:
    """Run a process and return what it cost.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run([sys.executable, "-c", WATCHED, *words], cwd=HOME, env=environment(), check=True, capture_output=True, text=True)
    seconds, cpu, peak, code = map(float, done.stdout.split())
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with exit code {code:.0f}: {done.stderr[-500:]}")
    return Ran(seconds, cpu, peak)


def pages(results: Path) -> dict[str, bytes]:
    """Return the files that an audit wrote, by their names."""
    return {path.name: path.read_bytes() for path in sorted(results.glob("audit/*/*"))}


def write_pictures(folder: Path, rows: int) -> None:
    """Write noise as PNG files in one folder for each class, brighter in later classes, with patched rows and copies among them."""
    inputs, labels = made_up(rows, (3, SIDE, SIDE), classes=CLASSES)
    patched, copies = torch.arange(1, rows, PATCHED), torch.arange(COPIED - 1, rows, COPIED)
    inputs[patched, :, -4:, -4:] = 255
    labels[patched] = 0
    inputs[copies], labels[copies] = inputs[copies - CLASSES], labels[copies - CLASSES]
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
    for row, (pixels, label) in enumerate(zip(inputs.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True)):
        Image.fromarray(pixels).save(folder / f"class{label}" / f"{row:06}.png")
