"""Inputs made to hurt: each ends in one sentence, quickly, with nothing written, no code run and no socket opened."""

import dataclasses
import io
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from poisonbench.cli import entry
from poisonbench.core.errors import DataError
from poisonbench.record import Record, read
from tests.conftest import SPEC, TINY

OWNED = "owned"  # a file that appears if anything of this is run
NESTED = "[" * 2000 + "]" * 2000
BOMB = "{a: &a [x,x,x,x,x,x,x,x], b: &b [*a,*a,*a,*a,*a,*a,*a,*a], c: [*b,*b,*b,*b,*b,*b,*b,*b]}"
CONFIGS = [
    *[
        f"attack.data._target_={target}"
        for target in ("builtins.open", "builtins.eval", "os.system", "subprocess.Popen", "shutil.rmtree", "pathlib.Path.unlink")
    ],
    *[f"defense.sanitize._target_={target}" for target in ("builtins.exec", "importlib.import_module", "pickle.loads", "torch.load", "ctypes.CDLL")],
    *[
        f"learner._target_={target}"
        for target in ("poisonbench.store.Store", "poisonbench.core.files.write_text", "attacks.__init__", "defenses.nothing.Nothing")
    ],
    "learner._target_=poisonbench.core.rng.Key",
    "task._target_=http.server.HTTPServer",
    "net._target_=torch.hub.load",
    "seed=${oc.env:HOME}",
    "seed=${oc.decode:1}",
    "results_dir=${oc.env:PATH}/../../nowhere",
    "attack.data.target=${now:%s}",
    f"net.widths={NESTED}",
    f"net={BOMB}",
    "net.widths=" + "9" * 5000,
    "threat.budget.rate=nan",
    "threat.budget.rate=inf",
    "threat.budget.rate=-0.1",
    "threat.budget.count=99999999999999999999",
    "seed=-1e400",
    "learner.lr=nan",
    "learner.epochs=-3",
    "attack.data.size=99999999",
    "task=../../../etc/passwd",
    "attack=badnets\x00",
    "attack=\x1b[31mred",
    "trust=os hydra.searchpath=[file:///]",
    "+experiment=../attack/badnets",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a socket was asked for")

    monkeypatch.setattr("socket.socket.connect", refused)
    return tmp_path


@pytest.mark.parametrize("word", CONFIGS, ids=range(len(CONFIGS)))
def test_a_hostile_word_is_one_sentence(here, capsys, word):
    assert entry([*TINY, "attack=backdoor", "defense=spectral", "threat.budget.rate=0.2", word]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    assert len(err) < 6500
    assert not list(here.iterdir())


def picture(side: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A PNG that says it is 50,000 pixels a side."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def deep() -> bytes:
    """A picture of 16 bits a pixel: taken for 8, it would be white."""
    stream = io.BytesIO()
    Image.fromarray(np.full((16, 16), 30_000, dtype=np.uint16)).save(stream, "PNG")
    return stream.getvalue()


PICTURES = {
    "empty": b"",
    "text": b"<script>alert(1)</script>",
    "cut": picture()[:40],
    "flipped": picture()[:50] + bytes([picture()[50] ^ 255]) + picture()[51:],
    "bomb": bomb(),
    "deep": deep(),
    "zip": b"PK\x03\x04" + b"\0" * 60,
    "pickle": b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1:9/'/></svg>",
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("kind", ["image_folder", "parquet"])
def test_a_hostile_picture_is_one_sentence(here, capsys, kind, name):
    data = here / "data"
    for split in ("train", "test"):
        pictures = [picture()] * 8 + ([PICTURES[name]] if split == "train" else [])
        if kind == "parquet":
            data.mkdir(exist_ok=True)
            table = pa.table({"image": [{"bytes": one} for one in pictures], "label": [place % 2 for place in range(len(pictures))]})
            pq.write_table(table, data / f"{split}.parquet")
        for place, one in enumerate(pictures):
            (data / split / f"class{place % 2}").mkdir(parents=True, exist_ok=True)
            (data / split / f"class{place % 2}" / f"{place}.png").write_bytes(one)
    code = entry([f"task={kind}", f"task.root={data}", "task.duplicates=allow", "net.widths=[8,16]", "net.depths=[1,1]", "learner.epochs=1", "results_dir=out"])
    err = capsys.readouterr().err
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    assert not list(here.glob(f"**/{OWNED}"))
    assert not list(here.glob("out/records/*"))


RECORD = Record(spec=SPEC, metrics={"c_acc": 0.5}, command="python -m poisonbench seed=0")


def hostile_records(folder: Path) -> list[Path]:
    good = json.loads(RECORD.write(folder).read_text())
    texts = [
        "",
        "null",
        "[]",
        "1" * 5000,
        NESTED,
        '{"a":' * 900 + "1" + "}" * 900,
        '{"schema": NaN}',
        "\x00" * 100,
        '{"schema": 1}',
        json.dumps({**good, "more": 1}),
    ]
    texts += [
        json.dumps({**good, name: value})
        for name, value in (("schema", 3), ("spec", []), ("metrics", "x"), ("command", 3), ("result_digest", ""), ("status", 5))
    ]
    texts += [
        json.dumps({**good, **wrong, "result_digest": dataclasses.replace(RECORD, **wrong).result_digest})
        for wrong in (
            {"spec": {"seed": 0}},
            {"spec": {**SPEC, "seed": "x"}},
            {"spec": {**SPEC, "attack": None}},
            {"spec": {**SPEC, "threat": {"budget": {"rate": 0.1, "count": -1}}}},
            {"status": "won"},
            {"metrics": {"c_acc": True}},
            {"metrics": {"c_acc": 1e308}},
            {"metrics": {"certified": []}},
            {"metrics": {"screen": [1]}},
            {"undefended": {"asr_interval": [0.1]}},
            {"curves": {"defended": {"asr": ["x"]}}},
            {"counts": {"train": -5}},
            {"cost": {"seconds": {"fit": None}}},
        )
    ]
    paths = []
    for place, text in enumerate(texts):
        paths.append(folder / f"hostile-{place}.json")
        paths[-1].write_text(text)
    (folder / "binary.json").write_bytes(bytes(range(256)))
    return [*paths, folder / "binary.json", folder / "missing.json", folder]


def test_a_hostile_record_is_refused(tmp_path):
    for path in hostile_records(tmp_path):
        with pytest.raises(DataError):
            read(path)


def test_a_value_of_the_store_with_any_bit_flipped_is_made_again(tmp_path):
    import torch

    from poisonbench.core.learner import Trained
    from poisonbench.store import Store

    made = []

    def make() -> Trained:
        made.append(1)
        return Trained(state={"weight": torch.arange(50.0)}, facts={"epochs": 3})

    store = Store(tmp_path)
    store.memo("fit", (1,), make)
    (path,) = tmp_path.glob("*.safetensors")
    good, dice = path.read_bytes(), random.Random(0)
    for times in range(2, 32):
        bad = bytearray(good)
        bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
        path.write_bytes(bytes(bad))
        assert Store(tmp_path).memo("fit", (1,), make).state["weight"].equal(torch.arange(50.0))
        assert len(made) == times
        assert path.read_bytes() == good
