"""`python -m benchmarks NAME...`: measure, print, and write a record."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markdown import Markdown
from threadpoolctl import threadpool_limits

from benchmarks import trend
from benchmarks._options import Options
from poisonbench.core.errors import ConfigError
from poisonbench.learn import device
from poisonbench.report.benchmarks import Benchmark, Comparison, table
from poisonbench.storage.record import provenance

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def main(words: Sequence[str] | None = None) -> int:
    """Run the named benchmarks one after the other; each record is written to results/local/benchmarks, or to results/benchmarks with --publish.

    `trend` measures nothing: it adds the published ratios to results/trend.json and prints those that have fallen.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Each figure is a ratio against a named alternative in the same run.")
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--data", type=Path, help="a folder that contains cifar10 and mnist, for `accuracy`")
    parser.add_argument("--commit", default="HEAD^", help="the older version that `against` compares with")
    parser.add_argument("--quick", action="store_true", help="50 MB in place of 4 GB, for `index_hashes`")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: one per core")
    parser.add_argument("--publish", action="store_true", help="write to results/benchmarks, the source of the table in docs/performance.md")
    options = parser.parse_args(words)
    device.set_threads(options.threads)
    if options.threads:  # otherwise the BLAS of numpy and scipy uses all cores, and its idle threads slow both sides
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for child processes, and for libraries that are loaded later
        threadpool_limits(options.threads, user_api="blas")
    folder = HERE.parent / "results" / ("benchmarks" if options.publish else "local/benchmarks")
    for name in options.names:
        if name == "trend":
            trend.main()
            continue
        try:
            comparisons = tuple(_measured(name, Options(data=options.data, commit=options.commit, quick=options.quick)))
        except ConfigError as error:
            raise SystemExit(str(error)) from error
        benchmark = Benchmark(name=name, comparisons=comparisons, machine=machine())
        Console().print(Markdown(table([benchmark])))
        Console().print(f"record: {benchmark.write(folder)}", markup=False, highlight=False)
    return 0


def _measured(name: str, options: Options) -> Iterator[Comparison]:
    for comparison in importlib.import_module(f"benchmarks.{name}").measure(options):
        Console().print(f"{name}: {comparison.work}: {comparison.ratio:.3g}x", markup=False, highlight=False)
        yield comparison


def machine() -> dict[str, object]:
    """Return the facts of this machine: cores, threads, device, versions."""
    place = device.resolve("auto")
    chip = torch.cuda.get_device_name() if place == "cuda" else platform.processor() or platform.machine()
    return {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": place, "chip": chip, "bf16": device.has_bf16(place), **provenance()}


if __name__ == "__main__":
    raise SystemExit(main())
