"""JSON lines and Parquet as tables, and records of a file that are left out without a change of the others."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.tasks.records import records, text_of, without
from poisonbench.tasks.sheet import opened, read


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
@pytest.mark.parametrize("content", [b"a,b\r\n1,2\r\n\r\n3,4", b"\xef\xbb\xbfa;b\n1;2\n3;4\n", b"a\tb\r1\t2\r3\t4\r", b'{"a": "\xe2\x80\xa8"}\n\n{"a": 2}'])
def test_records_together_are_the_whole_file(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    assert "".join(record.raw for record in records(file, text_of(file))).encode() == content.removeprefix(b"\xef\xbb\xbf")
    assert without(file, ()) == content


def test_a_record_with_line_breaks_is_left_out_whole(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(b'text,label\r\n"first\r\nand, second",a\r\n"say ""yes""",  b\r\n\r\n\'x\',a\n')
    assert without(file, {2}) == b'text,label\r\n"say ""yes""",  b\r\n\r\n\'x\',a\n'
    assert without(file, {4}) == b"text,label\r\n\"first\r\nand, second\",a\r\n\r\n'x',a\n"


def test_json_lines_are_a_table(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "one\\u2028\u2028two", "label": 1, "meta": {"x": [1]}}\n\n{"label": true, "text": " three ", "extra": null}\n', encoding="utf-8")
    sheet = read(file)
    assert sheet.header == ("text", "label", "meta", "extra")
    assert sheet.cells("text") == ["one\u2028\u2028two", "three"]
    assert sheet.cells("label") == ["1", "True"]
    assert sheet.names == ("line 1", "line 3")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1, column meta: the value is a list, an object or bytes; give one value, or remove the row"):
        sheet.cells("meta")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1, column extra: the cell is empty; fill it in, or remove the row"):
        sheet.cells("extra")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"label": 1', r"rows\.jsonl, line 2 cannot be read as a JSON object \(.*\); correct or remove the line"),
        ('["a"]', r"rows\.jsonl, line 2 is no JSON object; write one per line"),
        ('{"label": 1, "label": 2}', r"rows\.jsonl, line 2 cannot be read as a JSON object \(two values for label\)"),
    ],
)
def test_a_broken_line_of_json_is_named(tmp_path, line, says):
    (tmp_path / "rows.jsonl").write_text(f'{{"label": 1}}\n{line}\n')
    with pytest.raises(DataError, match=says):
        read(tmp_path / "rows.jsonl")


def test_a_folder_of_parquet_has_training_and_test_rows_with_named_classes(tmp_path):
    features = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": ["pos", "neg"]}}}})
    for name, labels in (("train-00000-of-00002", [0, 1]), ("train-00001-of-00002", [1]), ("test-00000-of-00001", [0])):
        columns = {"text": [f"{name} {label}" for label in labels], "label": labels, "raw": [[1]] * len(labels)}
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": features}), tmp_path / "data" / f"{name}.parquet")
    train, test = opened(str(tmp_path), None)
    assert train.cells("label") == ["pos", "neg", "neg"]
    assert train.known == {"label": ("pos", "neg")}
    assert train.names == ("row 0", "row 1", "row 2")
    assert train.rows[2][2] is None
    assert test is not None
    assert test.cells("label") == ["pos"]
    with pytest.raises(ConfigError, match=r"task\.test_file=x: .* has test rows in test-00000-of-00001\.parquet already"):
        opened(str(tmp_path), "x")


def test_a_number_without_a_class_name_is_refused(tmp_path):
    features = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": ["pos", "neg"]}}}})
    pq.write_table(pa.table({"text": ["a"], "label": [-1]}).replace_schema_metadata({"huggingface": features}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"the label is -1, but the metadata of the file names only 2 classes"):
        read(tmp_path / "rows.parquet")
