"""Peak memory of a training for growing numbers of rows: pixels mapped from a file, against float32 tensors as in most code."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._options import Options
from poisonbench.report.benchmarks import Comparison

HOME = Path(__file__).parent.parent
SHAPE = (3, 32, 32)
BATCH = 512


def measure(options: Options, *, sizes: tuple[int, ...] = (5_000, 50_000, 500_000)) -> Iterator[Comparison]:
    """Yield one comparison for each number of rows: growth of the peak resident memory while a linear model is trained for one epoch."""
    before: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            path = Path(folder) / f"{rows}.safetensors"
            _python("write", path, rows)
            grown = {way: _python(way, path, rows) for way in ("mapped", "floats")}
            a_row = {way: (grown[way] - before.get(way, 0)) for way in grown}
            before = grown
            yield Comparison(
                work=f"one epoch of a linear model over {rows} rows of 32x32x3",
                ours="uint8 pixels mapped from a file",
                alternative="float32 tensors in a DataLoader",
                unit="MiB",
                ours_cost=(grown["mapped"],),
                alternative_cost=(grown["floats"],),
                note=f"resident memory grown; the pixels themselves are {rows * 3072 / 2**20:.0f} MiB",
                facts={f"grown_since_the_size_before_{way}": value for way, value in a_row.items()},
            )
            path.unlink()


def _python(way: str, path: Path, rows: int) -> float:
    done = subprocess.run([sys.executable, "-m", "benchmarks.memory", way, str(path), str(rows)], cwd=HOME, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _resident() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _write(path: Path, rows: int) -> None:
    from safetensors.torch import save_file

    from benchmarks._setting import made_up

    inputs, labels = made_up(rows, SHAPE)
    save_file({"inputs": inputs, "labels": labels}, path)


def _mapped(path: Path, rows: int) -> float:
    from safetensors.torch import load_file

    from benchmarks._setting import made_up, setting
    from poisonbench.core.rng import Key

    small = setting("net=linear", "learner.epochs=1", f"learner.batch_size={BATCH}", data=made_up(2 * BATCH, SHAPE))
    small.learner.fit(small.data, small.combine, Key.root(100))
    before = _resident()
    pixels = load_file(path)
    whole = setting("net=linear", "learner.epochs=1", f"learner.batch_size={BATCH}", data=(pixels["inputs"], pixels["labels"]))
    whole.learner.fit(whole.data, whole.combine, Key.root(100))
    return _resident() - before


def _floats(path: Path, rows: int) -> float:
    from safetensors.torch import load_file

    from benchmarks._setting import made_up

    _train_floats(*made_up(2 * BATCH, SHAPE))
    before = _resident()
    pixels = load_file(path)
    _train_floats(pixels["inputs"], pixels["labels"])
    return _resident() - before


def _train_floats(inputs: torch.Tensor, labels: torch.Tensor) -> None:
    net = torch.nn.Linear(3072, 10)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for batch, answers in DataLoader(TensorDataset(inputs.float().div(255), labels), batch_size=BATCH, shuffle=True):
        optimizer.zero_grad()
        F.cross_entropy(net(batch.flatten(1)), answers).backward()
        optimizer.step()


if __name__ == "__main__":
    way, file, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if way == "write":
        _write(file, number)
        print(0)  # noqa: T201  # the parent reads it
    else:
        print((_mapped if way == "mapped" else _floats)(file, number))  # noqa: T201  # the parent reads it
