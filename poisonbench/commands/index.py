"""`index verify FOLDER [images=FOLDER] [hash=COLUMN]`: compare the pictures of a web index with the digests in it, one shard at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from poisonbench.commands.usage import Usage
from poisonbench.core.errors import ConfigError
from poisonbench.report.figures import plain

USAGE = Usage(
    call="index verify FOLDER [images=FOLDER] [hash=COLUMN]",
    does="Compare the bytes of each picture with the digest that the index has for it; exit code 1 if one differs or is missing.",
    options={
        "FOLDER": "shards as img2dataset writes them, or the Parquet file of one index",
        "images=FOLDER": "the pictures of one index, if they are not beside it",
        "hash=COLUMN": "the digests, in hexadecimal digits; by default sha256, md5 or sha512",
    },
)
OPTIONS = ("images", "hash")
STATES = ("match", "differ", "missing")
UNFETCHED, UNLISTED = "not downloaded", "without a digest in the index"  # counted where there are such rows
FIRST = {"differ": "differs", "missing": "is missing", UNLISTED: "has no digest in the index"}


def main(words: Sequence[str]) -> int:
    """Print how many rows match, differ and are missing, and the first that differs and that is missing; return 1 if one differs or is missing.

    Raises:
        ConfigError: other words.
        DataError: an index or a shard that cannot be read.
    """
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words if word.startswith(tuple(f"{option}=" for option in OPTIONS))}
    match [word for word in words if word.partition("=")[0] not in given]:
        case ["verify", place]:
            return _verify(Path(place).expanduser(), given)
    raise ConfigError(f"{USAGE.call}: {USAGE.does}")


def _verify(root: Path, given: dict[str, str]) -> int:
    from poisonbench.core.errors import DataError
    from poisonbench.tasks.fetched import SUCCESS, Chosen, Row, shards

    images = Path(given["images"]).expanduser() if "images" in given else None
    if not root.exists() or (images is not None and not images.is_dir()):
        raise DataError(f"nothing at {images if root.exists() else root}; give a folder of shards, or the Parquet file of one index and images=FOLDER")
    counts, first = dict.fromkeys(STATES, 0), dict[str, Row]()
    for shard in shards(root, images, Chosen(hash=given.get("hash"), uncaptioned=True)):
        assert shard.algorithm is not None, "an index without digests is refused"
        found = dict(shard.holder.digests(shard.algorithm))
        for row in shard.rows:
            absent = "missing" if row.status in ("", SUCCESS) else UNFETCHED
            unknown = absent if row.key not in found else "" if row.digest else UNLISTED
            state = unknown or ("match" if found[row.key].hex() == row.digest else "differ")
            counts[state] = counts.get(state, 0) + 1
            first.setdefault(state, row)
    _say(f"{root}: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    for state, row in first.items():
        if state in FIRST:
            _say(f"  first that {FIRST[state]}: {row.where}, {row.url}")
    return int(counts["differ"] + counts["missing"] > 0)


def _say(text: str) -> None:
    Console().print(plain(text), markup=False, highlight=False, soft_wrap=True)
