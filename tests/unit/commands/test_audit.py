"""Vetting a training set, on a folder of pictures with planted poison."""

import base64
import csv
import dataclasses
import hashlib
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from defenses.sanitize.knn_outlier import KnnOutlier
from defenses.sanitize.spectral import SpectralSignatures
from poisonbench.cli import entry
from poisonbench.commands.audit import with_defaults
from poisonbench.core.classwise import REASON
from poisonbench.core.data import Dataset, Task
from poisonbench.core.defense import Finds, Verdict
from poisonbench.core.files import file_digest
from poisonbench.core.progress import listening
from poisonbench.report.joint import clean_rows
from poisonbench.report.vetting import Vetted, certainly, swapped
from poisonbench.storage.store import write_tensors

FAST = (
    "net=small",
    "net.widths=[8,16]",
    "net.depths=[1,1]",
    "learner.epochs=8",
    "learner.batch_size=32",
    "learner.lr=0.1",
    "threads=1",
    "task.size=8",
    "task.grey=true",
)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Make a folder of two kinds of stripes; four of the rows across carry a white square and the wrong label."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 10)):
        for label, kind in enumerate(("across", "down")):
            (tmp_path / "data" / part / kind).mkdir(parents=True)
            for number in range(count):
                picture = random.integers(0, 90, (8, 8)) + 120 * (np.indices((8, 8))[label] % 2)
                Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "data" / part / kind / f"{number:03}.png")
    for number in range(8):
        picture = random.integers(0, 90, (8, 8)) + 120 * (np.indices((8, 8))[1] % 2)
        picture[4:, 4:] = 255
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "data" / "train" / "across" / f"poison{number}.png")
    return tmp_path


def test_planted_rows_come_first_under_their_file_names(pictures, capsys):
    assert entry(["audit", "task=image_folder", "task.root=data", "defense=[spectral,knn_outlier]", "threat.budget.rate=0.06", *FAST]) == 0
    out = capsys.readouterr().out
    assert "128 rows of data" in out
    assert re.search(r"spectral and knn_outlier both name \d+ of the \d+ rows", out)
    assert "without any attack" in out
    (folder,) = (pictures / "results" / "audit").iterdir()
    rows = list(csv.DictReader((folder / "suspects.csv").read_text().splitlines()))
    assert len(rows) == 128
    found = [row["name"] for row in rows[:12]]
    assert sum("poison" in name for name in found) >= 6
    assert all(name.startswith("train/") for name in found)
    assert rows[0]["filters"] == "2"
    assert pyarrow.parquet.read_table(folder / "suspects.parquet").num_rows == 128
    page = (folder / "index.html").read_text()
    named = sum(row["named"] == "True" for row in rows)
    assert 8 <= named < 24
    assert page.count("<figure>") == named
    assert page.count("data:image/png;base64,") == 3 * named
    (listed,) = re.findall(r'href="data:text/plain;charset=utf-8;base64,([^"]+)"', page)
    assert base64.b64decode(listed).decode().splitlines() == [row["name"] for row in rows if row["named"] == "True"]
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_names_of_files_are_text_and_nothing_else(pictures):
    for number, name in enumerate(("=1+1", "<mark title=x>", "\x1b[31m")):
        (pictures / "data" / "train" / "across" / f"poison{number}.png").rename(pictures / "data" / "train" / "across" / f"{name}.png")
    for part in ("train", "test"):
        (pictures / "data" / part / "down").rename(pictures / "data" / part / "=down")
    assert entry(["audit", "task=image_folder", "task.root=data", "defense=knn_outlier", "threat.budget.rate=0.06", *FAST]) == 0
    (folder,) = (pictures / "results" / "audit").iterdir()
    told, shown = (folder / "suspects.csv").read_text(), (folder / "index.html").read_text()
    assert "1+1.png" in told
    assert "'=down" in told
    assert ",=" not in told
    assert "\x1b" not in told
    assert "&lt;mark title=x&gt;" in shown
    assert "<mark" not in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["defense=spectral", "defense=deep_knn"], "defense= at most once"),
        (["short=0"], "short=0: give one whole number from 1 to"),
        (["short=two"], "short=two: give one whole number"),
        (["share=0"], "share=0: give one number between 0 and 1"),
        (["share=nan"], "share=nan: give one number between 0 and 1"),
        (["share=0.1", "share=0.2"], "share=0.1 share=0.2: give one number"),
        (["defense=krum"], "judges no training rows"),
        (["defense=spectrall"], "spectral"),
        (["task=nonsense", "defense=spectral"], "nonsense"),
    ],
)
def test_what_cannot_be_vetted_is_one_sentence(pictures, capsys, words, says):
    assert entry(["audit", "task=blobs", *FAST[:6], *words]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert len(told.err.strip().splitlines()) == 1


def rows_in(folder):
    """Return the rows of the one audit whose files lie below a folder, as mappings of text."""
    (path,) = folder.glob("results/audit/*/suspects.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


def lay_out(folder, *sizes: int, test: int = 0, name: str = "stripes"):
    """Write classes of these sizes, rows without names, as `export` writes them; class k has its stripes k pixels lower."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    inputs = torch.randint(0, 90, (len(labels), 1, 8, 8), generator=torch.Generator().manual_seed(0))
    inputs += 120 * ((torch.arange(8).view(8, 1) - labels.view(-1, 1, 1, 1)) % len(sizes) == 0)
    columns = {"train": (inputs.to(torch.uint8), labels), "test": (255 - inputs[:test].to(torch.uint8), labels[:test])}
    folder.mkdir(parents=True)
    for part, (pixels, kinds) in columns.items():
        write_tensors(folder / f"{part}.safetensors", {"inputs": pixels, "labels": kinds})
    told = {"format": 3, "name": name, "class_names": [f"class{label}" for label in range(len(sizes))]}
    told["sha256"] = {part: file_digest(folder / f"{part}.safetensors") for part in columns}
    (folder / "task.json").write_text(json.dumps(told))
    return ["task=poisoned", f"task.root={folder}", *FAST[:6]]


def test_a_task_without_test_rows_is_audited_and_a_run_on_it_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = lay_out(tmp_path / "data", 40, 40)
    assert entry(["audit", *words, "defense=spectral"]) == 0
    assert len(rows_in(tmp_path)) == 80
    capsys.readouterr()
    for run in (["attack=backdoor", "defense=spectral"], ["attack=none", "--dry-run"], []):
        assert entry([*words, *run]) == 2
        told = capsys.readouterr()
        assert "stripes-poisoned has no test rows" in told.err + told.out
        assert "task.test=0.2 holds some out), or run `audit`, which needs none" in told.err + told.out


def test_classes_that_are_too_small_keep_their_rows_and_the_report_names_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry(["audit", *lay_out(tmp_path / "data", 90, 60, 6, 1), "defense=[spectral,activation_clustering,deep_knn]"]) == 0
    told = "2 of 4 classes are too small to judge by spectral and activation_clustering, which keep all of their rows: class2 (6 rows), class3 (1 row)"
    told += f"; the reason: {REASON}"
    assert told in capsys.readouterr().out
    assert told in next(tmp_path.glob("results/audit/*/index.html")).read_text()
    small = [row for row in rows_in(tmp_path) if row["too_small"] == "True"]
    assert sorted(row["class_rows"] for row in small) == ["1", *["6"] * 6]
    assert {row["label"] for row in small} == {"class2", "class3"}
    assert not any(row[f"{name}_removes"] == "True" for row in small for name in ("spectral", "activation_clustering"))


def test_a_filter_that_names_a_whole_class_is_said_to_name_no_row_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = lay_out(tmp_path / "data", *[30] * 8)
    assert entry(["audit", *words, "defense=spectral", "threat.budget.rate=0.2"]) == 0
    assert re.search(
        r"spectral names every row of class\d \(30 rows\); if this filter uses threat.budget.rate, a lower rate makes it name fewer rows",
        capsys.readouterr().out,
    )
    assert entry(["audit", *words, "defense=spectral", "threat.budget.rate=0.01"]) == 0
    assert "every row" not in capsys.readouterr().out


def test_two_audits_share_a_folder_only_if_they_are_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = lay_out(tmp_path / "one" / "data", 30, 30), lay_out(tmp_path / "other" / "data", 30, 31)
    audits = [[*one, "defense=spectral"], [*other, "defense=spectral"], [*one, "defense=knn_outlier"], [*one, "defense=spectral", "defense.sanitize.margin=1"]]
    for words in (*audits, audits[0]):
        assert entry(["audit", *words]) == 0
    folders = sorted(path.name for path in (tmp_path / "results" / "audit").iterdir())
    assert len(folders) == 4
    assert all(re.fullmatch(r"stripes-poisoned-[0-9a-f]{12}", name) for name in folders)


def test_the_name_of_a_task_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert entry(["audit", *lay_out(tmp_path / "data", 30, 30, name="../" * 3 + "x" * 300), "defense=spectral"]) == 0
    assert len(rows_in(tmp_path)) == 60


def test_a_row_without_a_name_goes_by_its_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert entry(["audit", *lay_out(tmp_path / "data", 30, 30), "defense=spectral"]) == 0
    rows = rows_in(tmp_path)
    assert all(row["name"] == row["row"] for row in rows)
    assert sorted(int(row["row"]) for row in rows) == list(range(60))


def test_rows_keep_the_names_of_their_files_where_only_some_of_them_are_judged(pictures):
    assert entry(["audit", "task=image_folder", "task.root=data", "defense=spectral", "task.limit=100", "task.trusted=0.1", *FAST]) == 0
    rows, files = rows_in(pictures), sorted(str(path.relative_to(pictures / "data")) for path in (pictures / "data" / "train").rglob("*.png"))
    assert len(rows) == 90
    assert all(row["name"] == files[int(row["row"])] for row in rows)
    assert all(f"train/{row['label']}/" in row["name"] for row in rows)


def test_the_work_of_a_filter_is_told_class_by_class(tmp_path, monkeypatch):
    from poisonbench.commands.audit import judged, settings_of

    monkeypatch.chdir(tmp_path)
    words, heard = lay_out(tmp_path / "data", 30, 30, 30), []
    with listening(lambda *told: heard.append(told)):
        judged(settings_of([*words, "task.trusted=0"], ["spectral"]))
    assert [told for told in heard if told[0] == "judge classes"] == [("judge classes", done, 3) for done in (0, 1, 2, 3)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["task.trusted=0", "task.test=0", "task.duplicates=allow"]),
        (["learner.epochs=3"], ["task.trusted=0", "task.test=0", "task.duplicates=allow", "learner.epochs=3"]),
        (["task.test=0.3", "task.trusted=0.1"], ["task.duplicates=allow", "task.test=0.3", "task.trusted=0.1"]),
    ],
)
def test_an_audit_has_defaults_of_its_own_that_words_replace(words, told):
    assert with_defaults(words) == told


def test_a_filter_that_needs_trusted_rows_is_refused_without_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry(["audit", *lay_out(tmp_path / "data", 30, 30), "defense=trusted_outlier"]) == 2
    assert "TrustedOutlier needs trusted clean rows" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["attack=backdoor", "attack.data.size=2", "+attack=none"])
def test_words_about_an_attack_are_refused_where_nobody_attacks(word, capsys):
    assert entry(["audit", "task=blobs", "defense=spectral", word]) == 2
    assert f"{word}: an audit judges the rows as they are, without an attack; leave this word out" in capsys.readouterr().err


def test_texts_and_tables_are_audited_without_holding_rows_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [f"a {word} film number {number},{label}" for number in range(40) for word, label in (("good", "yes"), ("bad", "no"))]
    (tmp_path / "films.csv").write_text("\n".join(["review,label", *lines]))
    assert entry(["audit", "task=texts", "task.root=films.csv", "learner=naive_bayes", "defense=knn_outlier"]) == 0
    assert "80 rows of films" in capsys.readouterr().out
    (page,) = tmp_path.glob("results/audit/*/index.html")
    assert '<p class="first">a ' in page.read_text()
    assert entry(["audit", "task=breast_cancer", "defense=knn_outlier"]) == 0
    assert "569 rows of breast_cancer" in capsys.readouterr().out


PASSAGES = ("task=facts", "task.questions=20", "task.passages=200", "task.split_seed=100", "threads=1")


def test_passages_are_audited_by_filters_of_the_index(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry(["audit", *PASSAGES, "task.trusted=0.2", "defense=[near_duplicate,perplexity]"]) == 0
    out = capsys.readouterr().out
    assert "200 rows of facts" in out
    (folder,) = (tmp_path / "results" / "audit").iterdir()
    assert len((folder / "suspects.csv").read_text().splitlines()) == 201
    assert entry(["audit", *PASSAGES, "defense=query_echo"]) == 2
    assert "defense=query_echo judges no training rows" in capsys.readouterr().err
    assert entry(["audit", *PASSAGES, "defense=perplexity"]) == 2
    assert "trusted" in capsys.readouterr().err


def test_without_a_filter_every_filter_that_fits_is_run_and_a_second_audit_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["audit", *lay_out(tmp_path / "data", 40, 40), "short=2"]
    assert entry(words) == 0
    out = capsys.readouterr().out
    assert "deep_knn used a model that was trained for 2 epochs" in out
    columns = rows_in(tmp_path)[0].keys()
    assert {f"{name}_suspicion" for name in ("activation_clustering", "confident_learning", "deep_knn", "knn_outlier", "spectral")} <= columns
    made = sorted(path.name for path in (tmp_path / "results" / "store").iterdir())
    assert entry(words) == 0
    assert sorted(path.name for path in (tmp_path / "results" / "store").iterdir()) == made


def test_a_filter_that_cannot_judge_the_rows_is_named_with_the_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry(["audit", *lay_out(tmp_path / "data", 40)]) == 0
    out = capsys.readouterr().out
    assert "deep_knn was not run: defense: DeepKnn works with classes" in out
    assert "deep_knn_suspicion" not in rows_in(tmp_path)[0]


def test_a_copy_of_a_test_row_and_wrong_labels_are_named_with_their_reasons(pictures, capsys):
    """One training picture equals a test picture, and four pictures lie in the folder of the other class."""
    for number in range(4):
        (pictures / "data" / "train" / "down" / f"01{number}.png").rename(pictures / "data" / "train" / "across" / f"wrong{number}.png")
    test = Image.open(pictures / "data" / "test" / "down" / "003.png")
    test.save(pictures / "data" / "train" / "down" / "copy.png")
    words = ["audit", "task=image_folder", "task.root=data", "task.duplicates=allow", "short=8", *FAST]
    assert entry(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 training row copies a test row: train/down/copy.png" in out
    rows = {row["name"]: row for row in rows_in(pictures)}
    copy = rows["train/down/copy.png"]
    assert (copy["near_copies_removes"], copy["kind"], copy["reason"]) == ("True", "duplicate", "it nearly repeats test row test/down/003.png")
    wrong = [rows[f"train/across/wrong{number}.png"] for number in range(4)]
    assert all(row["named"] == row["deep_knn_removes"] == "True" and "across" in row["reason"] for row in wrong)
    assert all(0 < float(row["clean_share"]) <= 1 for row in rows.values())
    assert [float(row["clean_share"]) for row in rows_in(pictures)] == sorted(float(row["clean_share"]) for row in rows.values())
    (folder,) = (pictures / "results" / "audit").iterdir()
    page = (folder / "index.html").read_text()
    assert "<h2>Duplicate" in page


def test_an_audit_that_was_killed_between_filters_goes_on(tmp_path, monkeypatch, capsys):
    """The second filter fails the first time; the verdict of the first one is not computed again."""
    monkeypatch.chdir(tmp_path)
    words = ["audit", *lay_out(tmp_path / "data", 40, 40), "defense=[spectral,knn_outlier]"]

    def interrupted(*given):
        raise KeyboardInterrupt

    judge = KnnOutlier.judge
    monkeypatch.setattr(KnnOutlier, "judge", interrupted)
    assert entry(words) == 130
    made = {path.name for path in (tmp_path / "results" / "store").iterdir()}
    monkeypatch.setattr(KnnOutlier, "judge", judge)
    monkeypatch.setattr(SpectralSignatures, "judge", lambda *given: pytest.fail("spectral was computed again"))
    assert entry(words) == 0
    assert made < {path.name for path in (tmp_path / "results" / "store").iterdir()}


def test_labels_that_were_swapped_between_two_classes_are_reported_as_such():
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    verdict = Verdict(keep=torch.ones(7, dtype=torch.bool), suspicion=torch.zeros(7), evidence={"guess": torch.tensor([1, 1, 1, 2, 0, 0, 0])})
    data = Dataset.of(torch.zeros(7, 1), labels, num_classes=3)
    task = Task(name="three", train=data, test=data.take(NONE), trusted=data.take(NONE), public=data.take(NONE), class_names=("a", "b", "c"))
    told = Told(task=task, verdicts={"filter": verdict}, statements={}, finds={"filter": Finds(kind="label error", reads="none", because="")})
    assert swapped(told) == []  # 3 of 6 from a to b; three times the even share of 1 would be 3
    assert swapped(told, least=2) == []
    swaps = dataclasses.replace(verdict, evidence={"guess": torch.tensor([1, 1, 1, 1, 1, 1, 1])})
    more = dataclasses.replace(told, verdicts={"filter": swaps})
    assert swapped(more) == ["4 of the 7 rows named as label errors are labelled a and look like b"]


class Told(Vetted):
    """An audit in which every row is named as a label error."""

    named = torch.ones(7, dtype=torch.bool)
    kinds = ("label error",) * 7


NONE = torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize("apart", [False, True])
def test_a_copy_of_a_test_row_names_the_row_by_its_source(tmp_path, monkeypatch, capsys, apart):
    monkeypatch.chdir(tmp_path)
    texts = [" ".join(f"{letter}{number}" for letter in "abcdefgh") for number in range(60)]
    lines = [f"{text},{'xy'[number % 2]}" for number, text in enumerate(texts)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *lines, *lines]))
    (tmp_path / "more.csv").write_text(f"label,text\nx,another text of eight words not seen before\ny,{texts[1]}\n")
    tests = "task.test_file=more.csv" if apart else "task.test=0.1"
    assert entry(["audit", "task=texts", "task.root=films.csv", tests, "defense=near_copies", "threads=1"]) == 0
    (path,) = tmp_path.glob("results/audit/*/suspects.csv")
    told = {row["name"]: row["reason"] for row in csv.DictReader(path.read_text().splitlines()) if "test row" in row["reason"]}
    copies = {name: re.search(r"test row ((?:more\.csv, )?line \d+)", reason)[1] for name, reason in told.items()}
    if apart:
        assert copies == {"line 3": "more.csv, line 3", "line 63": "more.csv, line 3"}
        return
    assert copies
    assert all(abs(int(one.removeprefix("line ")) - int(other.removeprefix("line "))) == 60 for one, other in copies.items())


def vetted(removed, *, exact=True):
    """Return an audit of rows of one class: one filter removes `removed`, two others row 0, and no table of clean rows knows them."""
    rows = Dataset.of(torch.zeros(len(removed), 1), torch.zeros(len(removed), dtype=torch.int64), num_classes=1)
    task = Task(name="rows", train=rows, test=rows.take(NONE), trusted=rows.take(NONE), public=rows.take(NONE))
    first = torch.arange(len(removed)) == 0
    masks = {"certain": torch.tensor(removed), "one": first, "other": first}
    verdicts = {name: Verdict(keep=~mask, suspicion=mask.float()) for name, mask in masks.items()}
    finds = {"certain": Finds(kind="changed", reads="none", because="the bytes differ", scale="flag", exact=exact)}
    return Vetted(task=task, verdicts=verdicts, statements={}, finds=finds, limit=0.05)


def test_rows_of_a_certain_finding_come_first_and_are_named_with_its_reason():
    few = vetted([False] * 39 + [True])
    assert few.order[:2] == [39, 0]  # two filters name row 0, and one of them row 39
    assert few.named.nonzero()[:, 0].tolist() == [39]
    assert (few.kinds[39], few.reason(39)) == ("changed", "the bytes differ")
    assert certainly(few) == ["the bytes differ in 1 of 40 rows (certain): row 39"]
    other = vetted([False] * 39 + [True], exact=False)
    assert other.order[:2] == [0, 39]
    assert not other.named.any()
    assert certainly(other) == []


def test_many_rows_of_a_certain_finding_do_not_displace_the_order_and_most_rows_are_not_named_for_it():
    """Where one row in five has changed, most of them have not been attacked; where most have, the digests were made from other bytes."""
    many = vetted([False] * 32 + [True] * 8)
    assert int(many.named.sum()) == 8
    assert many.order[0] == 0
    most = vetted([False] * 5 + [True] * 35)
    assert not most.named.any()
    assert certainly(most) == ["the bytes differ in 35 of 40 rows (certain): more than half, so these rows are not named for it"]


def web(folder, replaced, swapped, copied):
    """Write an index of 80 pairs of stripes, and poison some of its rows after the digests were taken."""
    random = np.random.default_rng(100)
    pictures = [encoded_picture(random.integers(0, 90, (8, 8)) + 120 * (np.indices((8, 8))[number % 2] % 2)) for number in range(80)]
    captions = [f"stripes {('across', 'down')[number % 2]}" for number in range(80)]
    digests = [hashlib.md5(picture).hexdigest() for picture in pictures]
    pictures[replaced] = encoded_picture(np.full((8, 8), 200))
    captions[swapped] = captions[swapped + 1]
    pictures[copied], digests[copied], captions[copied] = pictures[copied - 2], digests[copied - 2], f"old {captions[copied]}"
    folder.mkdir()
    urls = [f"https://h{number % 3}.example/{number}.png" for number in range(80)]
    keys = [f"{number:09}" for number in range(80)]
    columns = {"url": urls, "caption": captions, "key": keys, "status": ["success"] * 80, "md5": digests, "jpg": pictures}
    pyarrow.parquet.write_table(pa.table(columns), folder / "00000.parquet")
    return ["audit", "task=index", f"task.root={folder}", "task.classes=[across,down]", *FAST[-3:]]


def encoded_picture(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_pairs_are_audited_with_their_digests_their_captions_and_copies_that_say_something_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert entry(web(tmp_path / "web", replaced=10, swapped=21, copied=32)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"the bytes differ from the digest in the index in 1 of 80 rows \(sha256\): https://h1.example/10.png; without an attack this holds for", out
    )
    assert "perceptual_hash was not run" in out  # img2dataset writes no such hash
    rows = rows_in(tmp_path)
    by_name = {row["name"]: row for row in rows}
    assert (rows[0]["name"], rows[0]["kind"], rows[0]["named"]) == ("https://h1.example/10.png", "changed", "True")
    assert rows[0]["reason"] == "the bytes differ from the digest in the index"
    copy = by_name["https://h2.example/32.png"]
    assert (copy["kind"], copy["named"]) == ("duplicate", "True")
    assert copy["reason"] == 'it nearly repeats https://h0.example/30.png, which has another caption, "stripes across"'
    assert "alignment_suspicion" in rows[0]


def test_a_caption_that_does_not_fit_is_told_with_its_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = web(tmp_path / "web", replaced=10, swapped=21, copied=32)
    assert entry([*words, "defense=alignment", "defense.sanitize.judge_by=own", "threat.budget.rate=0.05"]) == 0
    told = {row["name"]: row["reason"] for row in rows_in(tmp_path) if row["named"] == "True"}
    assert told["https://h0.example/21.png"] == '"stripes across" fits its picture less than other captions fit theirs'


def test_a_caption_that_is_the_input_of_a_generator_is_told_with_its_words_too(tiny):
    experiment = tiny("task=concepts", "defense=alignment")
    rows = experiment.task.train
    verdict = Verdict(keep=torch.arange(len(rows)) > 5, suspicion=torch.linspace(1, 0, len(rows)))
    filters = {"alignment": experiment.defense.sanitize.FINDS}
    vetted = Vetted(task=experiment.task, verdicts={"alignment": verdict}, statements={}, finds=filters, clean=clean_rows(), limit=0.05)
    assert vetted.kinds[0] == "caption"
    assert vetted.reason(0) == f'"{rows.form.text(rows.inputs[0])}" fits its picture less than other captions fit theirs'
