"""The benchmark of digests on small shards: its files are those that it describes, and both sides read all of them."""

import hashlib
import tarfile

from benchmarks import index_hashes
from benchmarks._options import Options
from poisonbench.core.shards import digests


def test_shards_have_the_members_that_img2dataset_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(index_hashes, "SHARD", 3)
    paths = index_hashes.write_shards(tmp_path, 5, whole=True)
    assert [path.name for path in paths] == ["00000.tar", "00001.tar"]
    with tarfile.open(paths[1]) as tar:
        assert tar.getnames() == [f"{row:09}.{suffix}" for row in (3, 4) for suffix in ("jpg", "txt", "json")]
        assert all(info.pax_headers == {"mtime": "1700000000.25"} for info in tar)
        expected = {info.name[:9]: hashlib.sha256(tar.extractfile(info).read()).digest() for info in tar if info.name.endswith("jpg")}
        assert all(info.size == 4096 for info in tar if info.name.endswith("jpg"))
    assert dict(digests(paths[1], {"jpg"})) == expected
    assert len({*expected.values()}) == 2


def test_pictures_alone_have_one_header_each(tmp_path):
    (path,) = index_hashes.write_shards(tmp_path, 4, whole=False)
    assert path.stat().st_size == 4 * (512 + 4096) + 1024
    assert index_hashes.ours([path]) == index_hashes.by_tarfile(path) == 4


def test_times_and_memory_of_both_layouts_are_measured():
    told = list(index_hashes.measure(Options(), alone=60, whole=30, repeats=3))
    assert [each.unit for each in told] == ["s", "s", "MiB"] * 2
    assert [each.facts["rows"] for each in told] == [60] * 3 + [30] * 3
    assert all(len(each.ours_cost) == len(each.alternative_cost) == (3 if each.unit == "s" else 1) for each in told)
    assert all(min(*each.ours_cost, *each.alternative_cost) > 0 for each in told)
    assert "pictures alone" in told[0].work
    assert "metadata" in told[3].work


def test_quick_takes_50_mb(monkeypatch):
    asked = []

    def write(folder, rows, *, whole):
        asked.append(rows)
        raise InterruptedError

    monkeypatch.setattr(index_hashes, "write_shards", write)
    for quick in (False, True):
        try:
            next(index_hashes.measure(Options(quick=quick)))
        except InterruptedError:
            continue
    assert asked == [1_000_000, 12_500]
