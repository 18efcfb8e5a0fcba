"""Input that our checks refuse: each gives one sentence, with nothing written and no socket opened.

Every input here is harmless to other software. A class that is not allowed is a plain one, such as `datetime.date`; an input that is too large is the
smallest one above our limit; a damaged file is truncated or random.
"""

import dataclasses
import functools
import io
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from poisonbench import decoders
from poisonbench.cli import entry
from poisonbench.config import compose
from poisonbench.core import files
from poisonbench.core.errors import DataError
from poisonbench.storage.record import Record, read
from tests.conftest import SPEC, TINY

DEEP = "[" * (compose.DEPTH + 1) + "]" * (compose.DEPTH + 1)
LONG = "9" * (compose.DIGITS + 1)
CONFIGS = [
    *[  # an allow-list refuses what is harmless as well
        f"attack.data._target_={target}"
        for target in ("datetime.date", "collections.OrderedDict", "fractions.Fraction", "builtins.dict", "pathlib.PurePath", "attacksx.badnets.BadNets")
    ],
    *[f"defense.sanitize._target_={target}" for target in ("datetime.time", "collections.Counter", "uuid.UUID", "torch.Size", "defenses")],
    *[
        f"learner._target_={target}"
        for target in ("poisonbench.storage.store.Store", "poisonbench.core.files.write_text", "attacks.__init__", "defenses.nothing.Nothing")
    ],
    "learner._target_=poisonbench.core.rng.Key",
    "task._target_=datetime.timedelta",
    "net._target_=torch.nn.Identity",
    "seed=${oc.env:HOME}",
    "seed=${oc.decode:1}",
    "results_dir=${oc.env:HOME}/nowhere",
    "attack.data.target=${now:%s}",
    f"net.widths={DEEP}",
    f"net.widths=]{DEEP[:-1]}",
    "net={a: &a [x], b: *a}",
    f"seed={LONG}",
    "results_dir=" + "x" * (compose.LETTERS - len("results_dir=") + 1),
    "threat.budget.rate=nan",
    "threat.budget.rate=inf",
    "threat.budget.rate=-0.1",
    "threat.budget.count=401",
    "seed=-inf",
    "learner.lr=nan",
    "learner.epochs=-3",
    "attack.data.size=9",
    *(f"{group}=../net/linear" for group in ("task", "learner", "attack", "owners", "tracker")),
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
    assert len(err) < 500
    assert not list(here.iterdir())


def picture(side: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def large() -> bytes:
    """A picture of one column more than is decoded, black throughout."""
    stream = io.BytesIO()
    Image.new("1", (decoders.PIXELS // 2**13 + 1, 2**13)).save(stream, "PNG")
    return stream.getvalue()


def deep() -> bytes:
    """A picture of 32 bits a pixel: taken for 8, it would be white."""
    stream = io.BytesIO()
    Image.fromarray(np.full((16, 16), 30_000, dtype=np.int32)).save(stream, "TIFF")
    return stream.getvalue()


PICTURES = {
    "empty": b"",
    "text": b"no picture at all",
    "cut in its header": picture()[:20],
    "cut": picture()[:40],
    "flipped": picture()[:50] + bytes([picture()[50] ^ 255]) + picture()[51:],
    "large": large(),
    "deep": deep(),
    "random": random.Random(0).randbytes(200),
    "random behind a magic number": picture()[:8] + random.Random(1).randbytes(200),
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
    assert not list(here.glob("out/records/*"))


RECORD = Record(spec=SPEC, metrics={"c_acc": 0.5}, command="python -m poisonbench seed=0")


NO_RECORDS = {
    "empty": "",
    "null": "null",
    "a list": "[]",
    "a number": "1",
    "not a number": '{"schema": NaN}',
    "a control character": "\x00",
    "a schema alone": '{"schema": 1}',
    "binary": bytes(range(256)).decode("latin-1"),
}
NO_FIELDS = {"more": 1, "schema": 9, "spec": [], "metrics": "x", "command": 3, "result_digest": "", "status": 5}
NESTED: object = functools.reduce(lambda inner, _: [inner], range(files.DEPTH - 2), [])  # in a field of a record, one level too deep
OF_ANOTHER_FORM: list[dict[str, object]] = [  # each as near to what is allowed as it can be, its digest right
    {"spec": {**SPEC, "seed": -1}},
    {"spec": {**SPEC, "seed": "0"}},
    {"spec": {**SPEC, "seed": 1.0}},
    {"spec": {**SPEC, "seed": 10**15}},
    *({"spec": {**SPEC, part: {**SPEC[part], "name": None}}} for part in ("task", "attack", "defense")),
    {"spec": {**SPEC, "attack": None}},
    {"spec": {**SPEC, "task": {"name": "blobs", "rows": {"train": -1}}}},
    {"spec": {**SPEC, "threat": {"budget": {"rate": "0.1"}}}},
    {"spec": {**SPEC, "threat": {"budget": {"rate": 0.1, "count": -1}}}},
    {"status": "won"},
    *({part: {name: value}} for part in ("metrics", "undefended", "baseline") for name in ("c_acc", "asr", "r_acc") for value in (True, "much", 1e15)),
    *({part: {"goal": value}} for part in ("metrics", "undefended", "baseline") for value in ([], {"c_acc_lost": "much"}, {"c_acc_lost": 1e15})),
    *({part: {"asr_interval": value}} for part in ("metrics", "undefended", "baseline") for value in ([0.1], [0.1, 0.2, 0.3], ["0", "1"])),
    {"metrics": {"certified": []}},
    {"metrics": {"certified": [None]}},
    {"metrics": {"screen": [1]}},
    {"metrics": {"repair": {"index": "x"}}},
    {"metrics": {"collective": {"1234567890": 0.5}}},
    {"metrics": {"collective": {"x": 0.5}}},
    {"counts": {"train": -1}},
    {"keys": {"fit": 1}},
    {"curves": {"defended": {"asr": ["x"]}}},
    {"curves": {"defended": {"asr": []}}},
    {"cost": {"seconds": {"fit": None}}},
    {"facts": {"more": NESTED}},
    {"facts": {"more": 10**files.DIGITS}},
]


@pytest.mark.parametrize("kind", NO_RECORDS)
def test_what_is_no_record_is_refused(tmp_path, kind):
    (tmp_path / "record.json").write_bytes(NO_RECORDS[kind].encode("latin-1"))
    with pytest.raises(DataError, match="is not a record"):
        read(tmp_path / "record.json")


@pytest.mark.parametrize("name", NO_FIELDS)
def test_a_record_with_a_field_that_is_none_is_refused(tmp_path, name):
    path = RECORD.write(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), name: NO_FIELDS[name]}))
    with pytest.raises(DataError):
        read(path)


@pytest.mark.parametrize("wrong", OF_ANOTHER_FORM, ids=range(len(OF_ANOTHER_FORM)))
def test_a_record_of_another_form_is_refused_though_its_digest_is_right(tmp_path, wrong):
    path = dataclasses.replace(RECORD, **wrong).write(tmp_path)
    with pytest.raises(DataError, match=r"the wrong form|too deep, or a number too long"):
        read(path)


def test_a_record_at_every_limit_is_read(tmp_path):
    right = {
        "spec": {**SPEC, "seed": 10**15 - 1, "threat": {"budget": {"rate": "nan", "count": 0}}},
        "metrics": {"c_acc": 1e15 - 1, "asr": None, "asr_interval": [0, 1], "certified": [0], "collective": {"123456789": "inf"}, "repair": {}},
        "facts": {"more": NESTED[0], "long": 10**files.DIGITS - 1},
    }
    assert dict(read(dataclasses.replace(RECORD, **right).write(tmp_path)).metrics) == right["metrics"]


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_record_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="is not a record"):
        read(tmp_path / name)


def test_a_value_of_the_store_with_any_bit_flipped_is_made_again(tmp_path):
    import torch

    from poisonbench.core.learner import Trained
    from poisonbench.storage.store import Store

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
