"""Every file reader and the command line parser, on random and damaged input: each returns a value or one sentence."""

import contextlib
import copy
import functools
import io
import json
import operator
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from attacks.backdoor.triggers import from_file
from poisonbench.core.errors import PoisonbenchError
from poisonbench.core.files import File, file_digest
from poisonbench.core.learner import Trained
from poisonbench.report import benchmarks, exports, leaderboard, ledger, tables
from poisonbench.report.cells import folded
from poisonbench.report.tables import published
from poisonbench.storage import lease
from poisonbench.storage.record import Record, read
from poisonbench.storage.store import Store
from poisonbench.tasks.images import ImageFolder, TorchvisionSet
from poisonbench.tasks.parquet import Parquet
from poisonbench.tasks.poisoned import Exported
from tests.conftest import TINY

RESULTS = Path(__file__).parent.parent.parent / "results"
RECORD = read(min((RESULTS / "records").glob("*.json")))
SPLIT = {"limit": None, "trusted": 0.0, "public": 0.0, "split_seed": 0, "duplicates": "allow"}
SPECIAL = (b"NaN", b"1e15", b"-1", b"[", b"{", b'"', b"\\u0000", b"null")  # of JSON; damaged bytes of other files are random

JUNK = (None, True, 0, -1, 10**15, 1e15, "", "x", "nan", "inf", [], {}, [1], [[]], {"a": 1}, {"name": None}, {"1234567890": 0.5})

Reader = Callable[[bytes], object]


def damaged(good: bytes, dice: random.Random) -> bytes:
    """Return `good` with up to four bytes or stretches replaced, removed, repeated or cut off."""
    text = bytearray(good)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(text) + 1)
        match dice.randrange(6):
            case 0:
                text[place : place + 1] = bytes([dice.randrange(256)])
            case 1:
                del text[place : place + dice.randint(1, 20)]
            case 2:
                text[place:place] = text[place : place + dice.randint(1, 20)]
            case 3:
                text[place : place + 4] = dice.choice((*SPECIAL, dice.randbytes(4)))
            case 4:
                del text[place:]
            case _:
                text[place : place + 1] = bytes([text[place] ^ 1 << dice.randrange(8)]) if place < len(text) else b""
    return bytes(text)


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)).save(stream, kind)
    return stream.getvalue()


def record(folder: Path) -> tuple[bytes, Reader]:
    path = RECORD.write(folder)

    def again(content: bytes) -> None:
        path.write_bytes(content)
        assert read(path).result_digest == RECORD.result_digest

    return path.read_bytes(), again


def of_store(folder: Path, suffix: str) -> tuple[bytes, Reader]:
    """A file of the store, its digest that of the damaged bytes: what a stranger may hand over."""
    store, value = Store(folder), Trained(state={"weight": torch.arange(50.0)}, facts={"epochs": 3})
    store.memo("fit", (1,), lambda: value)
    (path,) = folder.glob("*.safetensors")
    beside, whole = path.with_suffix(".sha256"), path.read_bytes()

    def again(content: bytes) -> None:
        path.write_bytes(whole if suffix == ".sha256" else content)
        beside.write_bytes(content if suffix == ".sha256" else f"{file_digest(path)} 1.0\n".encode())
        store.memo("fit", (1,), lambda: value)

    return path.with_suffix(suffix).read_bytes(), again


def poisoned(folder: Path, name: str) -> tuple[bytes, Reader]:
    """A file of an exported training set; the digests in task.json are those of the damaged bytes."""
    from safetensors.torch import save_file

    columns = {"inputs": torch.zeros(8, 3, 4, 4, dtype=torch.uint8), "labels": torch.arange(8) % 2}
    for part in ("train", "test"):
        save_file(columns, folder / f"{part}.safetensors")

    def described() -> bytes:
        digests = {part: file_digest(folder / f"{part}.safetensors") for part in ("train", "test")}
        return json.dumps({"format": 1, "name": "blobs", "class_names": ["a", "b"], "sha256": digests}).encode()

    (folder / "task.json").write_bytes(described())

    def again(content: bytes) -> object:
        (folder / name).write_bytes(content)
        if name != "task.json":
            (folder / "task.json").write_bytes(described())
        return Exported(root=str(folder), **SPLIT).load(Store(folder / "store"))

    return (folder / name).read_bytes(), again


def parquet(folder: Path) -> tuple[bytes, Reader]:
    names = {"info": {"features": {"label": {"names": ["night", "day"]}}}}
    table = pa.table({"image": [{"bytes": encoded("PNG"), "path": "one"}] * 4, "label": [0, 1, 0, 1]})
    for part in ("train", "test"):
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), folder / f"{part}.parquet")
    source = Parquet(root=str(folder), size=None, grey=False, **SPLIT)

    def again(content: bytes) -> object:
        (folder / "train.parquet").write_bytes(content)
        return source.load(Store(folder / "store"))

    return (folder / "train.parquet").read_bytes(), again


def picture(folder: Path, kind: str) -> tuple[bytes, Reader]:
    for place in range(4):
        path = folder / ("train", "test")[place // 2] / f"class{place % 2}" / f"{place}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded("PNG"))
    source = ImageFolder(root=str(folder), size=12, grey=False, **SPLIT)

    def again(content: bytes) -> object:
        (folder / "train" / "class0" / "0.png").write_bytes(content)
        return source.load(Store(folder / "store"))

    return encoded(kind), again


def trigger(folder: Path) -> tuple[bytes, Reader]:
    path = folder / "trigger.png"

    def again(content: bytes) -> object:
        path.write_bytes(content)
        return from_file(File(str(path)), 3, (4, 4))

    return encoded("PNG"), again


def idx(folder: Path) -> tuple[bytes, Reader]:
    """MNIST as its authors publish it."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(range(16)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 4]) + bytes([0, 1, 2, 3]))

    def again(content: bytes) -> object:
        (raw / "train-images-idx3-ubyte").write_bytes(content)
        return TorchvisionSet(name="mnist", root=str(folder), download=False, **SPLIT).load(Store(folder / "store"))

    return (raw / "train-images-idx3-ubyte").read_bytes(), again


def in_a_file(good: bytes, read_it: Callable[[Path], object]) -> Callable[[Path], tuple[bytes, Reader]]:
    def made(folder: Path) -> tuple[bytes, Reader]:
        def again(content: bytes) -> object:
            (folder / "file").write_bytes(content)
            return read_it(folder / "file")

        return good, again

    return made


COSTS = next(iter(sorted((RESULTS / "benchmarks").glob("*.json"))))
PARSERS: dict[str, Callable[[Path], tuple[bytes, Reader]]] = {
    "record": record,
    "store": lambda folder: of_store(folder, ".safetensors"),
    "digest": lambda folder: of_store(folder, ".sha256"),
    "export": lambda folder: poisoned(folder, "train.safetensors"),
    "description": lambda folder: poisoned(folder, "task.json"),
    "parquet": parquet,
    **{kind.lower(): lambda folder, kind=kind: picture(folder, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")},
    "trigger": trigger,
    "idx": idx,
    "lease": in_a_file(b'{"pid": 1, "host": "here", "started": "1"}', lease.holder),
    "ledger": in_a_file((RESULTS / "ledger" / "krum.json").read_bytes()[:3000].rpartition(b",\n {")[0] + b"]", ledger.read),
    "benchmark": in_a_file(COSTS.read_bytes(), benchmarks.read),
}


def fuzz(name: str, folder: Path, times: int) -> None:
    """Read damaged files: a value, or one sentence; whatever else is raised comes with its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    good, again = PARSERS[name](folder)
    again(good)
    for time in range(times):
        content = damaged(good, random.Random(f"{name} {time}"))
        try:
            with contextlib.suppress(PoisonbenchError):
                again(content)
        except Exception as error:
            raise AssertionError(f"{name} {time}: {content!r}") from error


def places_in(node: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Every place of a tree below its root."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, item in inner:
        yield (*path, name)
        yield from places_in(item, (*path, name))


def fuzz_shared(folder: Path, times: int) -> None:
    """Put junk anywhere into records whose digests are right, as anybody may: the leaderboard is made, or one sentence says why not."""
    kept = [json.loads(path.read_text()) for path in sorted((RESULTS / "records").glob("*.json"))[::20]]
    folder.mkdir(exist_ok=True)
    whole = 0
    for time in range(times):
        dice = random.Random(f"shared {time}")
        told = copy.deepcopy({name: part for name, part in dice.choice(kept).items() if name != "result_digest"})
        for _ in range(dice.randint(1, 2)):
            *path, last = dice.choice(list(places_in(told)))
            inner = functools.reduce(operator.getitem, path, told)
            inner[last] = copy.deepcopy(dice.choice(JUNK))
            if dice.random() < 0.3:
                del inner[last]
        with contextlib.suppress(TypeError, AttributeError):  # junk of which no record can be made
            told |= {"result_digest": Record(**told).result_digest}
        (folder / "record.json").write_text(json.dumps(told))
        with contextlib.suppress(PoisonbenchError):
            records = published(folder)
            whole += 1
            cells = folded(records)
            assert leaderboard.page(cells), time
            assert exports.as_csv(cells), time
            assert exports.as_markdown(cells), time
            assert tables.table(records), time
    assert whole > times / 10  # most junk is refused when it is read; some of it has to come further


def fuzz_words(times: int) -> None:
    """Throw characters at the parser of the command line: a configuration, or one sentence."""
    from poisonbench.config.compose import tree_of

    parts = ["attack", "backdoor", "${", "oc.env:HOME", "++", "seed", "é", "\n", *string.punctuation, " ", "1"]
    for time in range(times):
        dice = random.Random(f"words {time}")
        word = "".join(dice.choice(parts) for _ in range(dice.randint(1, 8)))
        with contextlib.suppress(PoisonbenchError):
            assert isinstance(tree_of([*TINY, word]), dict), word


@pytest.mark.parametrize("name", PARSERS)
def test_any_bytes_are_a_value_or_one_sentence(tmp_path, name):
    fuzz(name, tmp_path, 50)


def test_any_records_are_a_leaderboard_or_one_sentence(tmp_path):
    fuzz_shared(tmp_path, 300)


def test_any_words_are_a_configuration_or_one_sentence():
    fuzz_words(50)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_any_bytes_are_a_value_or_one_sentence_a_hundred_thousand_times(tmp_path, name):
    fuzz(name, tmp_path, 100_000)


@pytest.mark.slow
def test_any_records_are_a_leaderboard_or_one_sentence_a_hundred_thousand_times(tmp_path):
    fuzz_shared(tmp_path, 100_000)


@pytest.mark.slow
def test_any_words_are_a_configuration_or_one_sentence_a_hundred_thousand_times():
    fuzz_words(100_000)
