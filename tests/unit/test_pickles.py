import struct
import subprocess
import sys

import numpy as np
import pytest

from poisonbench.core.errors import DataError
from poisonbench.core.rng import Key
from poisonbench.pickles import DEPTH, STEPS, read
from tests.unit.streams import PICTURE, array, dtype, fraction, mapping, picture, raw, several, stream, text, together, whole

CALENDAR = b"cdatetime\ndate\n"  # the harmless marker: a class that is not allowed
DAY = together(whole(2000), whole(1), whole(1))
NAMED = {"stack_global": text("datetime") + text("date") + b"\x93", "global": CALENDAR, "builtin": b"cbuiltins\nlen\n", "codecs": b"c_codecs\ndecode\n"}
BLANK = b"cnumpy._core.multiarray\n_reconstruct\n" + together(b"cnumpy\nndarray\n", together(whole(0)), raw(b"b")) + b"R"

OPCODES = {  # one stream for each opcode that is not read
    "INT": b"I1\n",
    "LONG": b"L1L\n",
    "LONG4": b"\x8b" + struct.pack("<i", 1) + b"\x01",
    "STRING": b"S'a'\n",
    "BINSTRING": b"T" + struct.pack("<i", 1) + b"a",
    "SHORT_BINSTRING": b"U\x01a",
    "UNICODE": b"Va\n",
    "FLOAT": b"F1.5\n",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"]\x98",
    "LIST": b"(l",
    "DICT": b"(d",
    "EMPTY_SET": b"\x8f",
    "ADDITEMS": b"\x8f(\x90",
    "FROZENSET": b"(\x91",
    "POP": b"NN0",
    "DUP": b"N2",
    "POP_MARK": b"N(1",
    "GET": b"g0\n",
    "PUT": b"Np0\n",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "INST": b"(idatetime\ndate\n",
    "OBJ": b"(" + PICTURE + b"o",
    "NEWOBJ_EX": PICTURE + b")}\x92",
    "PERSID": b"P1\n",
    "BINPERSID": b"NQ",
}
STREAMS = {  # streams of opcodes that are read, in an order or with arguments that are not
    **{f"a name: {name}": value for name, value in NAMED.items()},
    "a call of a name that is not allowed": CALENDAR + DAY + b"R",
    "an object of a class that is not allowed": CALENDAR + b")\x81",
    "a call of a picture": PICTURE + together() + b"R",
    "an object that is an array": b"cnumpy\nndarray\n" + b")\x81",
    "a tuple in place of a class": together(text("picture")) + b")\x81",
    "a picture with arguments": PICTURE + together(whole(1)) + b"\x81",
    "a call of a text": text("len") + together() + b"R",
    "a call with a list of arguments": b"c_codecs\nencode\n" + several(text("a"), text("latin1")) + b"R",
    "another encoding": b"c_codecs\nencode\n" + together(text("a"), text("rot13")) + b"R",
    "a text beyond latin1": b"c_codecs\nencode\n" + together(text("\u20ac"), text("latin1")) + b"R",
    "an array of objects": array("O8", (1,), bytes(8)),
    "an array of records": array("V8", (1,), bytes(8)),
    "an array of texts": array("S8", (1,), bytes(8)),
    "an array of days": array("M8", (1,), bytes(8)),
    "an array that is too short": array("i8", (3,), bytes(16)),
    "an array with a negative side": array("i8", (-1,), bytes(8)),
    "an array of five axes": array("u1", (1, 1, 1, 1, 1), bytes(1)),
    "a subclass of arrays": b"cnumpy._core.multiarray\n_reconstruct\n" + together(CALENDAR, together(whole(0)), raw(b"b")) + b"R",
    "an array without its state": BLANK,
    "a state of a list": several() + together() + b"b",
    "a state of a name": PICTURE + together() + b"b",
    "a type of numbers with fields": b"cnumpy\ndtype\n" + together(text("i8"), b"\x89", b"\x88") + b"R" + together(whole(3), text("<"), b"}", text("a")) + b"b",
    "a picture with a palette": picture("P", 1, 1, bytes(1)),
    "a picture that is too short": picture("RGB", 2, 2, bytes(11)),
    "a picture that is too large": picture("L", 2**13 + 1, 1, bytes(2**13 + 1)),
    "a picture with a dict of attributes": PICTURE + b")\x81" + mapping(mode=text("L")) + b"b",
    "a picture without its state": PICTURE + b")\x81",
    "a key that is a number": b"}(" + whole(1) + whole(1) + b"u",
    "a key without a value": b"}(" + text("a") + b"u",
    "an item for a tuple": together() + whole(1) + b"a",
    "a mark that is missing": b"]" + whole(1) + b"e",
    "a mark that stays": b"(" + whole(1),
    "a value from an empty stack": b"\x85",
    "two values": b"NN",
    "no value": b"",
    "a list in itself": b"]\x94h\x00a",
    "a list in two places": b"]\x94(N" + b"h\x00" + b"t",
    "nested tuples in two places": b"N\x85\x85\x94h\x00\x86",
    "a value that was not kept": b"h\x05",
    "one container too many": b"N" + b"\x85" * (DEPTH + 1),
    "one list too many": b"]" * (DEPTH + 1) + b"a" * DEPTH,
    "a name alone": PICTURE,
    "a name in a list": several(PICTURE),
    "a type of numbers in a dict in a tuple": together(mapping(a=dtype("i8"))),
}


def test_the_streams_below_cover_every_opcode_that_is_not_read():
    import pickletools

    assert OPCODES.keys() == {opcode.name for opcode in pickletools.opcodes} - STEPS.keys()
    assert len(OPCODES) + len(STREAMS) > 60


@pytest.mark.parametrize("name", OPCODES)
def test_an_opcode_that_is_not_needed_is_refused_by_its_name(name):
    with pytest.raises(DataError, match=rf"^x uses the opcode {'EMPTY_SET' if name == 'ADDITEMS' else name}, which is not read \(at byte \d+\); only lists"):
        read(stream(OPCODES[name]), "x")


@pytest.mark.parametrize("name", STREAMS)
def test_everything_else_that_is_not_plain_is_refused_in_one_sentence(name):
    with pytest.raises(DataError, match=r"^x .*\(at byte \d+\); only lists|^x is not a complete pickle") as caught:
        read(stream(STREAMS[name]), "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\xffhello", b"\x80\x04", b"\x80\x04N", b"\x80\x04X\xff\xff\xff\x7fa.", b"\x80\x04\xff."])
def test_a_damaged_stream_is_refused(content):
    with pytest.raises(DataError, match=r"^x is not a complete pickle"):
        read(content, "x")


@pytest.mark.parametrize("protocol", [0, 1, 6])
def test_other_protocols_are_refused(protocol):
    with pytest.raises(DataError, match=f"has protocol {protocol}; protocols 2 to 5 are read"):
        read(bytes([0x80, protocol]) + b"N.", "x")


def test_limits_of_bytes_and_opcodes_hold(monkeypatch):
    monkeypatch.setattr("poisonbench.pickles.OPCODES", 5)
    assert read(stream(b"NN\x86"), "x") == (None, None)
    with pytest.raises(DataError, match="has more than 5 opcodes"):
        read(stream(b"NNN\x87"), "x")
    monkeypatch.setattr("poisonbench.pickles.BYTES", 4)
    with pytest.raises(DataError, match="has 5 bytes; at most 4 are read"):
        read(stream(b"N\x85"), "x")


def test_bytes_that_a_stream_makes_from_one_text_again_and_again_are_counted(monkeypatch):
    call = b"c_codecs\nencode\n" + b"h\x00" + text("latin1") + b"\x86R"
    content = stream(b"](" + text("a" * 1000) + b"\x94" + call * 3 + b"e")
    assert read(content, "x") == ["a" * 1000, *[b"a" * 1000] * 3]
    assert len(content) < 2000
    monkeypatch.setattr("poisonbench.pickles.BYTES", 2000)
    with pytest.raises(DataError, match="makes more than 2,000 bytes"):
        read(content, "x")


def test_nothing_that_a_stream_names_is_imported_or_called():
    """In a process of its own, so that nobody else has imported the marker: `this` of the standard library prints when it is imported."""
    code = (
        "import sys\nfrom poisonbench.pickles import read\nfrom poisonbench.core.errors import DataError\n"
        "for content in (b'\\x80\\x04cthis\\ns\\n.', b'\\x80\\x04X\\x04\\x00\\x00\\x00thisX\\x01\\x00\\x00\\x00s\\x93)R.', b'\\x80\\x04(ithis\\ns\\n.'):\n"
        "    try:\n        read(content, 'x')\n        raise SystemExit('read it')\n    except DataError:\n        pass\n"
        "print('this' in sys.modules, 'pickle' in vars(sys.modules['poisonbench.pickles']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_plain_values_are_read():
    value = several(whole(-5), fraction(1.5), text("a"), raw(b"b"), b"\x88", b"\x89", b"N", together(), mapping(a=several(whole(1))))
    assert read(stream(value), "x") == [-5, 1.5, "a", b"b", True, False, None, (), {"a": [1]}]


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_arrays_and_their_numbers_are_read(module):
    data = np.arange(6, dtype="<i8")
    found = read(stream(array("i8", (2, 3), data.tobytes(), module)), "x")
    assert np.array_equal(found, data.reshape(2, 3))
    scalar = f"c{module}\nscalar\n".encode() + together(dtype("i8"), raw(data[5:].tobytes())) + b"R"
    assert read(stream(scalar), "x") == 5
    buffer = f"c{module.replace('multiarray', 'numeric')}\n_frombuffer\n".encode() + together(raw(data.tobytes()), dtype("i8"), together(whole(6)), text("C"))
    assert np.array_equal(read(stream(buffer + b"R"), "x"), data)


def test_a_picture_is_read_row_by_row_and_channel_by_channel():
    grey, colours = read(stream(several(picture("L", 3, 1, b"\x01\x02\x03"), picture("RGB", 1, 2, bytes(range(6))))), "x")
    assert grey.pixels.tolist() == [[[1, 2, 3]]]
    assert colours.pixels.tolist() == [[[0], [3]], [[1], [4]], [[2], [5]]]  # red, green and blue of the two rows


def test_a_stream_with_changed_bytes_is_read_or_refused_and_never_ends_in_another_error():
    whole_stream = stream(several(together(picture("L", 2, 2, b"abcd"), whole(1)), array("i8", (2,), bytes(16)), mapping(a=text("b") + b"\x94")))
    draw, refused = Key.root(100).numpy(), 0
    for _ in range(3000):
        changed = bytearray(whole_stream)
        for place in draw.integers(2, len(changed), size=2):
            changed[place] = draw.integers(256)
        try:
            read(bytes(changed), "x")
        except DataError:
            refused += 1
    assert 1500 < refused < 3000


def test_flat_values_may_be_in_two_places():
    assert read(stream(text("a") + b"\x94h\x00\x86"), "x") == ("a", "a")
    assert read(stream(b"K\x01K\x02\x86\x94h\x00\x86"), "x") == ((1, 2), (1, 2))
