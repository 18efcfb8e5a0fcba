"""Digests of all pictures of a web index, streamed from tar shards, against hashlib over the same files as a whole; and the memory that it takes.

The shards are synthetic: random bytes in place of pictures, which SHA-256 does not distinguish from them. They have the two layouts that differ most.
With pictures alone there is one header for each 4 KB. img2dataset writes a picture, its caption and its metadata for each row, and webdataset gives
each of them a second header for the fraction of a second of its time.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks._options import Options
from benchmarks._timing import in_turns
from benchmarks.audit_folder import ran
from poisonbench.core.rng import Key
from poisonbench.core.shards import digests
from poisonbench.report.benchmarks import Comparison

SHARD = 10_000  # rows, as img2dataset has by default
PICTURE = 4096  # bytes
PIECE = 2**20  # bytes that the plain loop reads at a time
TIME = 1_700_000_000.25
QUICK = 0.0125  # of the rows: 50 MB

PEAK = """
import sys
from pathlib import Path
from poisonbench.core.shards import digests
print(sum(1 for path in sorted(Path(sys.argv[1]).glob("*.tar"))[:int(sys.argv[2])] for _ in digests(path, {"jpg"})))
"""


def measure(options: Options, *, alone: int = 1_000_000, whole: int = 400_000, repeats: int = 5) -> Iterator[Comparison]:
    """Yield for each layout the time of all digests against a plain loop and against tarfile, and the peak memory for all shards against a tenth.

    Args:
        options: `quick` takes 50 MB for each layout in place of 4 GB.
        alone: rows of the shards with pictures alone.
        whole: rows of the shards as img2dataset writes them.
        repeats: measured passes over all files, which are in the page cache after the first pass.

    Raises:
        RuntimeError: a process failed, or not every row was found.
    """
    share = QUICK if options.quick else 1.0
    for layout, asked in (("pictures alone", alone), ("pictures, captions and metadata", whole)):
        rows = max(1, round(asked * share))
        with tempfile.TemporaryDirectory() as place:
            paths = write_shards(Path(place), rows, whole=layout != "pictures alone")
            size = sum(path.stat().st_size for path in paths)
            work = f"SHA-256 of {rows} pictures of 4 KB in {len(paths)} tar files ({layout}, {size / 1e9:.2g} GB)"
            if (found := ours(paths)) != rows:
                raise RuntimeError(f"{found} pictures were found in shards of {rows}")
            costs = in_turns(lambda paths=paths: ours(paths), lambda paths=paths: plain(paths), repeats=repeats)  # type: ignore[misc]
            yield Comparison(
                work=work,
                ours="the digest of each picture, with all checks of the tar files",
                alternative="hashlib over each whole file, 1 MiB at a time",
                unit="s",
                ours_cost=costs.ours,
                alternative_cost=costs.alternative,
                facts={**costs.cpu, "rows": rows, "bytes": size},
            )
            first = paths[:1]
            slow = in_turns(lambda first=first: ours(first), lambda first=first: by_tarfile(first[0]), repeats=repeats)  # type: ignore[misc]
            yield Comparison(
                work=f"SHA-256 of {min(rows, SHARD)} pictures of 4 KB in 1 tar file ({layout})",
                ours="the digest of each picture, with all checks of the tar files",
                alternative="Python's tarfile, and hashlib for each picture",
                unit="s",
                ours_cost=slow.ours,
                alternative_cost=slow.alternative,
                facts={**slow.cpu, "rows": min(rows, SHARD)},
            )
            few = -(-len(paths) // 10)
            peaks = [ran([sys.executable, "-c", PEAK, place, str(count)]).peak for count in (len(paths), few)]
            yield Comparison(
                work=work,
                ours="largest resident memory of the process",
                alternative=f"the same for {few} of the files",
                unit="MiB",
                ours_cost=(peaks[0],),
                alternative_cost=(peaks[1],),
                facts={"rows": rows, "bytes": size},
            )


def ours(paths: Sequence[Path]) -> int:
    """Compute the digest of each picture; return how many there are."""
    return sum(1 for path in paths for _ in digests(path, {"jpg"}))


def plain(paths: Sequence[Path]) -> None:
    """Compute the digest of each file."""
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(PIECE):
                digest.update(piece)
        digest.digest()


def by_tarfile(path: Path) -> int:
    """Compute the digest of each picture of one file with tarfile; return how many there are."""
    count = 0
    with tarfile.open(path) as tar:
        for info in tar:
            if info.name.endswith(".jpg") and (stream := tar.extractfile(info)) is not None:
                hashlib.sha256(stream.read()).digest()
                count += 1
    return count


def write_shards(folder: Path, rows: int, *, whole: bool) -> list[Path]:
    """Write tar files of random bytes, and return their paths.

    Args:
        folder: where.
        rows: pictures.
        whole: a caption and metadata for each row too, and times as webdataset writes them.
    """
    noise = memoryview(Key.root(100).numpy().bytes(2**20))
    paths = []
    for start in range(0, rows, SHARD):
        paths.append(folder / f"{start // SHARD:05}.tar")
        with paths[-1].open("wb") as stream:
            for row in range(start, min(rows, start + SHARD)):
                place = row * 7919 % (len(noise) - PICTURE)
                files = {"jpg": noise[place : place + PICTURE]}
                if whole:
                    files |= {"txt": memoryview(b"a photo of a cat"), "json": memoryview(_metadata(row))}
                for suffix, content in files.items():
                    stream.write(_header(f"{row:09}.{suffix}", len(content), TIME if whole else int(TIME)))
                    stream.write(content)
                    stream.write(bytes(-len(content) % tarfile.BLOCKSIZE))
            stream.write(bytes(2 * tarfile.BLOCKSIZE))
    return paths


def _header(name: str, size: int, time: float) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, time  # webdataset sets a float
    return info.tobuf(tarfile.PAX_FORMAT)


def _metadata(row: int) -> bytes:
    url = f"https://www.example.com/pictures/{row}.jpg"
    known = {"url": url, "caption": "a photo of a cat", "key": f"{row:09}", "status": "success", "error_message": None, "width": 256, "height": 256}
    return json.dumps({**known, "original_width": 640, "original_height": 480, "exif": "{}", "sha256": "0" * 64}, indent=4).encode()
