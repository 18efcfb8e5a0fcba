"""Descriptions of folders: valid by mlcroissant, read by it, and checked against the files, also where mlcroissant looks away."""

import hashlib
import io
import json
import subprocess
import sys
import warnings

import pytest
from PIL import Image

pytest.importorskip("mlcroissant", reason='pip install "poisonbench[provenance]"')

import mlcroissant
import pyarrow as pa
import pyarrow.parquet as pq

from poisonbench.cli import entry
from poisonbench.provenance.croissant import CONTEXT, check
from poisonbench.provenance.tables import Column, columns

GIVEN = ("name=pets", "license=CC-BY-4.0", "description=Pictures of pets", "url=https://example.org", "creator=Ann", "version=1.0.0", "date=2026-11-30")


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Return a folder with pictures in class folders and a table of each kind; one name has a space and an accent."""
    root = tmp_path / "pets"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            (root / name / f"{number}.png").write_bytes(picture(100 * (name == "dog") + number))
    (root / "t.csv").write_text('id,who,score,ok,gap\n1,"Ann, B",0.5,true,1\n2,Bob,1.5,false,\n')
    (root / "t.tsv").write_text("text\tlabel\nhi\t1\n")
    (root / "t.jsonl").write_text('{"text": "hi", "n": 1, "tags": []}\n{"text": "ho", "n": 2, "tags": []}\n')
    table = pa.table({"image": [{"bytes": picture(3), "path": "a.png"}], "label": [1], "a b/c": [0.5], "list": [[1]]})
    pq.write_table(table, root / "caf\N{LATIN SMALL LETTER E WITH ACUTE} 1.parquet")
    return root


@pytest.fixture
def described(folder):
    """Return the folder with its description."""
    assert entry(["provenance", "croissant", str(folder), *GIVEN]) == 0
    return folder


def opened(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))


def rows(folder, record_set: str) -> list[dict]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [{name.rpartition("/rows/")[2]: value for name, value in row.items()} for row in opened(folder).records(record_set)]


def test_the_description_is_valid_and_has_the_sha256_of_each_file(described):
    whole = json.loads((described / "croissant.json").read_text())
    assert whole["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    issues = opened(described).metadata.issues
    assert not issues.errors
    assert [warning for warning in issues.warnings if "citeAs" not in warning] == []
    files = {each["contentUrl"]: each["sha256"] for each in whole["distribution"] if each["@type"] == "cr:FileObject"}
    there = {path.relative_to(described).as_posix(): path for path in described.rglob("*") if path.is_file() and path.name != "croissant.json"}
    assert files == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}


def test_the_context_is_that_of_mlcroissant():
    from mlcroissant._src.core.context import Context, CroissantVersion
    from mlcroissant._src.core.rdf import make_context

    assert make_context(Context(conforms_to=CroissantVersion.V_1_1)) == dict(CONTEXT)


def test_tables_are_read_with_their_types_and_their_text_comes_as_bytes(described):
    """mlcroissant 1.1.1 gives text as bytes."""
    first, second = rows(described, "t.csv/rows")
    assert first == {"id": 1, "who": b"Ann, B", "score": 0.5, "ok": True, "gap": 1.0}
    assert (second["who"], second["gap"]) == (b"Bob", None)
    assert rows(described, "t.tsv/rows") == [{"text": b"hi", "label": 1}]
    assert rows(described, "t.jsonl/rows") == [{"text": b"hi", "n": 1}, {"text": b"ho", "n": 2}]


def test_pictures_are_read_with_the_label_of_their_folder(described):
    found = {row["file"]: (row["label"], row["image"].getpixel((0, 0))[0]) for row in rows(described, "pictures-png/rows")}
    assert found == {b"cat/0.png": (b"cat", 0), b"cat/1.png": (b"cat", 1), b"dog/0.png": (b"dog", 100), b"dog/1.png": (b"dog", 101)}


def test_a_parquet_of_a_hub_is_read_with_its_pictures(described):
    (row,) = rows(described, "caf__1.parquet/rows")
    assert row["label"] == 1
    assert row["a_b/c"] == 0.5
    assert row["image"].getpixel((0, 0)) == (3, 0, 0)


def test_what_is_left_out_and_what_is_missing_is_said(folder, capsys):
    (folder / "bad.csv").write_text("a,a\n1,2\n")
    assert entry(["provenance", "croissant", str(folder)]) == 0
    told = capsys.readouterr()
    assert "column list is left out" in told.out
    assert "column tags is left out" in told.out
    assert "no columns for bad.csv" in told.out
    assert "recommended, but not given: license" in told.out
    assert not told.err


def test_two_runs_write_the_same_bytes(described):
    before = (described / "croissant.json").read_bytes()
    assert entry(["provenance", "croissant", str(described), *GIVEN]) == 0
    assert (described / "croissant.json").read_bytes() == before


def test_names_that_differ_only_in_odd_letters_stay_apart(tmp_path):
    root = tmp_path / "odd"
    root.mkdir()
    for name in ("a b.csv", "a_b.csv", "a+b.csv"):
        (root / name).write_text("x y,x_y\n1,2\n")
    assert entry(["provenance", "croissant", str(root)]) == 0
    assert [len(rows(root, record_set)) for record_set in ("a_b.csv/rows", "a_b.csv_2/rows", "a_b.csv_3/rows")] == [1, 1, 1]
    assert check(root, root / "croissant.json").state == "fine"


def told(folder, capsys) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = entry(["provenance", "croissant", str(folder), "check=true"])
    return code, capsys.readouterr().out.splitlines()


def test_a_folder_that_nobody_changed_is_fine(described, capsys):
    code, (line,) = told(described, capsys)
    assert code == 0
    assert "fine: all 8 files have the digests of croissant.json" in line


def test_a_changed_file_is_named_with_its_digest_before_mlcroissant_would_notice(described, capsys):
    (described / "t.csv").write_text("id,who,score,ok,gap\n1,Eve,0.5,true,1\n")
    assert not opened(described).metadata.issues.errors, "mlcroissant looks at the digest only when it reads the file"
    code, lines = told(described, capsys)
    assert code == 1
    assert lines[1:] == [f"  changed: t.csv (digest now {hashlib.sha256((described / 't.csv').read_bytes()).hexdigest()})"]


def test_a_changed_picture_is_named_although_mlcroissant_reads_it_without_a_word(described, capsys):
    """mlcroissant 1.1.1 compares no digest of files that are read as a set."""
    (described / "cat" / "0.png").write_bytes(picture(77))
    found = {row["file"]: row["image"].getpixel((0, 0))[0] for row in rows(described, "pictures-png/rows")}
    assert found[b"cat/0.png"] == 77
    code, lines = told(described, capsys)
    assert code == 1
    assert lines[1].startswith("  changed: cat/0.png (digest now ")


def test_added_removed_renamed_and_swapped_files_are_named(described, capsys):
    (described / "new.txt").write_text("new")
    (described / "t.tsv").unlink()
    (described / "t.jsonl").rename(described / "u.jsonl")
    one, two = described / "cat" / "0.png", described / "dog" / "0.png"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    code, lines = told(described, capsys)
    assert code == 1
    expected = ["swapped: cat/0.png and dog/0.png", "renamed: t.jsonl to u.jsonl", "removed: t.tsv", "added: new.txt"]
    assert [line.strip().partition(" (")[0] for line in lines[1:]] == expected


def changed(folder, change) -> None:
    path = folder / "croissant.json"
    whole = json.loads(path.read_text())
    change(next(each for each in whole["distribution"] if each.get("contentUrl") == "t.csv"))
    path.write_text(json.dumps(whole))


def test_a_digest_in_capitals_is_accepted_here_although_mlcroissant_refuses_it(described, capsys):
    changed(described, lambda each: each.update(sha256=each["sha256"].upper()))
    assert told(described, capsys)[0] == 0
    with pytest.raises(mlcroissant.GenerationError):
        rows(described, "t.csv/rows")


def test_a_file_without_a_digest_is_named_as_not_covered(described, capsys):
    changed(described, lambda each: each.pop("sha256"))
    (described / "t.csv").write_text("id\n1\n")
    code, lines = told(described, capsys)
    assert code == 0
    assert lines[1:] == ["  not covered, so not checked: t.csv"]


def test_a_listed_file_of_git_is_checked(described, capsys):
    (described / ".gitignore").write_text("one")
    changed(described, lambda each: each.update(contentUrl=".gitignore", sha256=hashlib.sha256(b"one").hexdigest()))
    (described / "t.csv").unlink()
    assert told(described, capsys)[0] == 0
    (described / ".gitignore").write_text("two")
    code, lines = told(described, capsys)
    assert code == 1
    assert lines[1].startswith("  changed: .gitignore ")


def test_a_file_with_several_types_is_checked(described, capsys):
    changed(described, lambda each: each.update({"@type": ["sc:MediaObject", "cr:FileObject"]}))
    (described / "t.csv").write_text("id\n1\n")
    code, lines = told(described, capsys)
    assert code == 1
    assert lines[1].startswith("  changed: t.csv ")


@pytest.mark.parametrize(("values", "said"), [
    ({"sha256": "12ab"}, "64 hexadecimal digits"),
    ({"contentUrl": "../t.csv"}, "outside of the folder"),
    ({"contentUrl": "https://example.org/t.csv"}, "outside of the folder"),
    ({"contentUrl": "t.tsv"}, "has two digests"),
])  # fmt: skip
def test_a_description_that_cannot_be_checked_says_why(described, values, said):
    changed(described, lambda each: each.update(values))
    found = check(described, described / "croissant.json")
    assert found.state == "could not check"
    assert said in found.sentence


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"distribution": []}', '{"distribution": [3]}', "[" * 101 + "]" * 101])
def test_a_file_that_is_no_description_could_not_be_checked(described, text):
    (described / "croissant.json").write_text(text)
    assert check(described, described / "croissant.json").state == "could not check"


def test_the_description_of_another_folder_is_said_to_be_one(described, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.txt").write_text("x")
    assert entry(["provenance", "croissant", str(other), "check=true", f"out={described / 'croissant.json'}"]) == 2
    assert "describes another folder" in capsys.readouterr().out


def test_bad_input_is_one_sentence_and_writes_nothing(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "link").symlink_to(folder)
    before = sorted(tmp_path.rglob("*"))
    cases = {
        "is no folder": (tmp_path / "missing",),
        "contains no files": (tmp_path / "empty",),
        "is a link": (tmp_path / "linked",),
        "this is a folder; name a file": (folder, f"out={tmp_path}"),
        "is no Croissant description": (folder, f"out={folder / 't.csv'}"),
        "does not exist": (folder, "check=true"),
        "name the file of the description": (folder, "check=true", f"out={tmp_path}"),
        "takes no other words": (folder, "check=true", "name=x"),
        "check takes": (folder, "check=yes"),
    }
    for said, words in cases.items():
        assert entry(["provenance", "croissant", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_description_that_mlcroissant_refuses_is_not_written(folder, capsys):
    assert entry(["provenance", "croissant", str(folder), "url=not a url", "date=yesterday"]) == 2
    assert "no valid Croissant description, so nothing was written" in capsys.readouterr().err
    assert not (folder / "croissant.json").exists()


def test_without_mlcroissant_it_is_written_and_said_not_to_be_validated(folder):
    code = "import sys, importlib.util as u\nreal = u.find_spec\nu.find_spec = lambda name, *a: None if name == 'mlcroissant' else real(name, *a)\n"
    code += "from poisonbench.cli import entry\nraise SystemExit(entry(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "provenance", "croissant", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'not validated, because mlcroissant is not installed: pip install "poisonbench[provenance]"' in done.stdout


@pytest.mark.parametrize(("cells", "kind"), [
    (("1", "-2"), "sc:Integer"),
    (("1", ""), "sc:Float"),
    (("1", "2.5e3"), "sc:Float"),
    (("True", "false"), "sc:Boolean"),
    (("True", ""), "sc:Text"),
    (("1", "x"), "sc:Text"),
    (("", ""), "sc:Text"),
    (("1_000", "2"), "sc:Text"),
    (("007", "2"), "sc:Text"),
    (("1" * 19, "2"), "sc:Text"),
    (("-0", "+5"), "sc:Integer"),
    (("\u0663", "2"), "sc:Text"),
    (("\u0663.5", "2"), "sc:Text"),
])  # fmt: skip
def test_the_type_of_a_column_of_words_is_that_which_all_its_cells_have(tmp_path, cells, kind):
    path = tmp_path / "t.csv"
    path.write_text("k,a\n" + "".join(f"k,{cell}\n" for cell in cells), encoding="utf-8")
    assert columns(path) == [Column(name="k", kind="sc:Text"), Column(name="a", kind=kind)]


@pytest.mark.parametrize(("number", "kind"), [(2**63 - 1, "sc:Integer"), (-(2**63), "sc:Integer"), (2**63, "")])
def test_a_whole_number_of_json_beyond_64_bits_has_no_plain_type(tmp_path, number, kind):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"a": number}) + "\n")
    assert columns(path) == [Column(name="a", kind=kind)]
