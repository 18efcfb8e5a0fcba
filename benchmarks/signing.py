"""Signing and checking a folder against a plain loop of hashlib over the same files, on one thread."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks._options import Options
from benchmarks._timing import in_turns
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.provenance.signing import beside, sign, verify
from poisonbench.report.benchmarks import Comparison

CHUNK = 2**20


def measure(options: Options, *, mebibytes: int = 4000, files: int = 400, repeats: int = 5) -> Iterator[Comparison]:
    """Yield signing, then checking, against SHA-256 of the same files; the files are in the memory of the system after the warm-up.

    Args:
        options: not used.
        mebibytes: of all files together.
        files: their number, of equal size.
        repeats: of each side, in turns.

    Raises:
        ConfigError: openssl, which makes the keys, is missing.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        private, public = _keys(Path(place))
        paths = _written(folder, mebibytes, files)

        def plain() -> None:
            for path in paths:
                digest = hashlib.sha256()
                with path.open("rb") as stream:
                    while piece := stream.read(CHUNK):
                        digest.update(piece)

        def check() -> None:
            if verify(folder, public, beside(folder)).state != "fine":
                raise RuntimeError("the folder that was just signed differs from its signature")

        for name, ours in (("sign", lambda: sign(folder, private, beside(folder))), ("verify", check)):
            costs = in_turns(ours, plain, repeats=repeats)
            yield Comparison(
                work=f"{name} {mebibytes} MiB in {files} files",
                ours=f"provenance {name}, with model-signing",
                alternative=f"hashlib.sha256 over the same files, {CHUNK // 2**20} MiB at a time",
                unit="s",
                ours_cost=costs.ours,
                alternative_cost=costs.alternative,
                facts={**costs.cpu, "mebibytes": mebibytes, "files": files},
            )


def _keys(place: Path) -> tuple[Path, Path]:
    private, public = place / "private.pem", place / "public.pem"
    try:
        for words in (("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private), ("ec", "-in", private, "-pubout", "-out", public)):
            subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
    except FileNotFoundError as error:
        raise ConfigError("benchmark signing: the program openssl is missing; install it") from error
    return private, public


def _written(folder: Path, mebibytes: int, files: int) -> list[Path]:
    """Write files of equal size with random bytes, and return their paths."""
    folder.mkdir()
    size = mebibytes * 2**20 // files
    draw = Key.root(100).child("signing").numpy()
    paths = [folder / f"{number:04}.bin" for number in range(files)]
    for path in paths:
        path.write_bytes(draw.bytes(size))
    return paths
