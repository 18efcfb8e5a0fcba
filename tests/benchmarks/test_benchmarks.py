"""Each benchmark on a small size: both sides do the same work, and the table says what was measured."""

import dataclasses
import math
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks import (
    _plain,
    _plain_text,
    against,
    bm25,
    bounds,
    federated,
    filters,
    grid,
    label_errors,
    memory,
    peers,
    planning,
    privacy,
    search,
    signing,
    stacked,
    startup,
    text,
    training,
    trend,
)
from benchmarks.__main__ import NAMES, machine, main
from benchmarks._commands import checkout, poisonbench, python
from benchmarks._options import Options
from benchmarks._setting import made_up
from benchmarks._timing import in_turns, timed
from defenses.train.dp_sgd import noise_for, spent_epsilon
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Server
from poisonbench.core.errors import DataError, PoisonbenchError
from poisonbench.core.files import DEPTH
from poisonbench.core.learner import Plan
from poisonbench.core.plugins import HOME
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens
from poisonbench.nets.text import TextCNN
from poisonbench.report.benchmarks import Benchmark, Comparison, read, table
from poisonbench.storage.record import Record

ONE = Comparison(work="ten rows", ours="a", alternative="b", unit="s", ours_cost=(1.0, 3.0, 2.0), alternative_cost=(9.0, 8.0, 7.0))


def test_the_ratio_is_that_of_the_medians():
    assert ONE.ratio == 4.0
    assert dataclasses.replace(ONE, ours_cost=(2.0,)).ratio == 4.0


def test_a_benchmark_comes_back_as_it_was_written(tmp_path):
    whole = Benchmark(name="mine", comparisons=(ONE, dataclasses.replace(ONE, note="why", facts={"rows": 10.0})), machine={"cores": 2})
    assert read(whole.write(tmp_path)) == whole
    assert "| mine | ten rows (why) | a: 2 s | b: 8 s | 4 |" in table([whole])


def test_a_file_of_another_form_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"schema": 1}')
    with pytest.raises(DataError, match="not a benchmark"):
        read(tmp_path / "a.json")


def test_a_file_that_is_too_deep_is_refused(tmp_path):
    path = Benchmark(name="mine", comparisons=(ONE,), machine={"cores": 2}).write(tmp_path)
    told = path.read_text().replace('"cores": 2', f'"cores": {"[" * (DEPTH - 1)}{"]" * (DEPTH - 1)}')
    path.write_text(told)
    with pytest.raises(DataError, match="too deep"):
        read(path)


def test_both_sides_are_timed_in_turns():
    done = []
    costs = in_turns(lambda: done.append("ours"), lambda: done.append("other"), repeats=2)
    assert done == ["ours", "other"] * 3
    assert len(costs.ours) == len(costs.alternative) == len(costs.ours_cpu) == len(costs.alternative_cpu) == 2


def test_processor_time_counts_this_process_and_its_children_and_no_sleep():
    code = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    busy, asleep = timed(partial(subprocess.run, [sys.executable, "-c", code], check=True)), timed(partial(time.sleep, 0.3))
    assert busy.cpu >= 0.2 > asleep.cpu
    assert asleep.wall >= 0.3


def test_the_machine_is_named():
    assert {"cores", "threads", "device", "chip", "bf16", "versions", "commit"} <= machine().keys()


def test_every_script_is_known_by_its_name():
    told = (
        "accuracy against audit_folder bm25 bounds crafting federated filters grid hash_distances hashes index_hashes influence_loo label_errors memory "
        "peers planning privacy search signing stacked startup text training trend"
    )
    assert told.split() == NAMES


def test_both_kinds_of_decomposition_score_as_the_filter_does():
    from defenses.sanitize.spectral import signature

    features = torch.randn(40, 6, generator=Key.root(100).torch()) + 3
    ours, _ = signature(features, centre=True)
    for full in (False, True):
        torch.testing.assert_close(filters.top_projection(features, full=full), ours, rtol=1e-3, atol=1e-4)
    assert len(list(filters.measure(Options(), rows=200, dims=12, repeats=1))) == 4


def test_neighbours_and_components_are_those_of_the_filters():
    from defenses.sanitize.activation_clustering import reduced
    from defenses.sanitize.knn_outlier import relative_distance

    features = torch.randn(40, 12, generator=Key.root(100).torch())
    torch.testing.assert_close(filters.kth_neighbour(features, 7).float(), relative_distance(features, 7))
    assert abs(filters.reduced(features) - reduced(features, "pca", 10, Key.root(0))).max() < 1e-9


def test_krum_by_pairs_selects_what_krum_selects():
    from defenses.aggregate.krum import Krum

    updates = torch.randn(9, 5, generator=Key.root(100).torch())
    server = Server(round=0, state=torch.zeros(5), malicious=2, reference=lambda: torch.zeros(5))
    assert torch.equal(federated.krum_by_pairs(updates, 2), Krum(malicious=2, variant="paper")(updates, server))


def test_a_round_is_measured_both_ways():
    krum, *rounds = federated.measure(Options(), clients=9, parameters=20, repeats=1)
    assert "9 updates" in krum.work
    assert [each.alternative for each in rounds] == ["learner.client.stack=loop"] * 2


def test_the_plain_loop_trains():
    torch_net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 2))
    before = torch_net[1].weight.detach().clone()
    inputs = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=Key.root(100).torch())
    _plain.train(torch_net, inputs, torch.arange(8) % 2, batch_size=4, workers=0)
    assert not torch.equal(before, torch_net[1].weight)


def test_a_peer_that_is_missing_is_asked_for_in_one_sentence(monkeypatch):
    monkeypatch.setattr(peers, "measure", lambda asked: iter([peers.peer("no_such_peer")]))
    with pytest.raises(SystemExit, match=r"^benchmark peers: no_such_peer is not installed; .* -e '\.\[peers\]'$"):
        main(["peers"])


def test_a_peer_that_decides_otherwise_is_not_timed():
    timed = []
    case = peers.Case(work="a sum", ours="plus", run=lambda: 3, peers={"minus": lambda: timed.append(1) or -1}, agree=lambda ours, theirs: ours == theirs)
    with pytest.raises(PoisonbenchError, match="a sum: minus and plus decide differently"):
        list(peers.compared(iter([case]), 1))
    assert len(timed) == 1
    same = dataclasses.replace(case, peers={"three": lambda: 3})
    (found,) = peers.compared(iter([same]), 2)
    assert (found.alternative, len(found.ours_cost)) == ("three", 2)


@pytest.mark.parametrize("clients", [9, 10])
def test_rules_agree_with_byzfl_and_with_plain_numpy(clients):
    byzfl = pytest.importorskip("byzfl")
    found = list(peers.compared(peers.rules(byzfl, clients, 300), 1))
    assert len(found) == 3 + 3 + 3 + 4 + 4


def test_filters_agree_with_plain_ways():
    def scores(rows):
        projected = rows @ np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][0]
        return np.abs(projected)[:, None]

    def clusters(parts, **how):
        return [np.arange(len(part)) < len(part) // 10 for part in parts], parts

    assert len(list(peers.compared(peers.filters(peers.planted(60, 20), scores, clusters), 1))) == 4


def test_the_plain_private_loop_spends_what_ours_spends():
    (_, net) = privacy.nets(8)["CNN of 64, 128, 256 channels on 8x8"]
    before = [weight.detach().clone() for weight in net.parameters()]
    plan = Plan(rows=600, epochs=1, steps=3, shape=(1, 8, 8))
    noise = noise_for("rdp", privacy.EPSILON, privacy.DELTA, plan)
    spent = privacy.train_private(net, *made_up(600, (1, 8, 8)), noise=noise).get_epsilon(privacy.DELTA)
    assert spent == pytest.approx(spent_epsilon("rdp", noise, 1 / 3, 3, privacy.DELTA), abs=0.02)
    assert not any(torch.equal(weight, old) for weight, old in zip(net.parameters(), before, strict=True))
    assert not any(hasattr(weight, "grad_sample") for weight in net.parameters()), "a second epoch starts as the first did"


def test_private_training_is_measured_on_both_networks():
    mlp, cnn = privacy.measure(Options(), rows=300, sides=(8,), repeats=1)
    assert ("MLP" in mlp.work, "CNN" in cnn.work) == (True, True)


@pytest.mark.slow
def test_training_stacks_memory_and_start_up_are_measured():
    assert len(list(training.measure(Options(), rows=4, repeats=1))) == 2
    assert len(list(stacked.measure(Options(), members=(6,)))) == 11
    small, large = memory.measure(Options(), sizes=(1_000, 20_000))
    assert large.alternative_cost[0] > small.alternative_cost[0]
    tiny = ("attack=none", "task=blobs", "learner.epochs=1", "threads=1")
    told = list(startup.measure(Options(), run=tiny, sweep=tiny, repeats=1))
    assert [comparison.ours for comparison in told][-2:] == [f"python -m poisonbench {' '.join(tiny)}", "the same command again"]
    assert len(told) == len(startup.COMMANDS) + 2
    assert all(0 < comparison.facts["ours_cpu_s"] < comparison.ours_cost[0] + 5 for comparison in told)


def test_training_on_texts_compares_the_same_network_on_the_same_texts():
    first, second = text.measure(Options(), rows=130, repeats=1)
    assert first.work == second.work == "text CNN on sentiment, batch 64, one epoch over 130 texts"
    assert min(*first.ours_cost, *first.alternative_cost) > 0


def test_the_plain_text_network_gives_the_features_of_ours():
    """With the same weights, on a text that is longer than every window; ours lets windows reach beyond the end, where they read zeros, and so does padding."""
    form = Tokens(vocabulary=("", "<unk>", *"abcdef"))
    like = Dataset.of(torch.tensor([[2, 3, 4, 5, 6, 7, 0, 0, 0, 0]]), torch.zeros(1, dtype=torch.int64), num_classes=2, form=form)
    net = TextCNN(width=4, min_count=1, words=9, dropout=0.0, scale=1.0, spread=1.0, windows=(2, 3), filters=5).build(like).eval()
    plain = _plain_text.PlainCNN(8, 4, (2, 3), 5, 0.0)
    plain.table.load_state_dict(net.table.state_dict())
    plain.last.load_state_dict(net.last.state_dict())
    for ours, theirs in zip(net.filters, plain.convolutions, strict=True):
        theirs.weight.data.copy_(ours.weight.unflatten(1, (theirs.kernel_size[0], 4)).transpose(1, 2))
        theirs.bias.data.copy_(ours.bias.data.clamp_(max=-1))  # below 0, so that a window of padding has no say
    torch.testing.assert_close(plain(like.inputs), net(like.inputs))


@pytest.mark.slow
def test_a_search_is_measured_against_numpy_and_faiss():
    pytest.importorskip("faiss")
    stage, whole, flat, grown = search.measure(Options(), passages=30_000, questions=50, repeats=1)
    assert stage.work == "50 questions, 30000 passages of 384 float32: matrix product"
    assert flat.facts["same_places"] == 1
    assert grown.unit == "MiB"
    assert min(*whole.ours_cost, *whole.alternative_cost) > 0


def test_bm25_is_measured_against_a_peer_that_finds_the_same_passages():
    peer = pytest.importorskip("rank_bm25").BM25Okapi
    pytest.importorskip("bm25s")
    question, index = bm25.measure(Options(), passages=300, questions=5, asked=2, repeats=1)
    assert (question.unit, index.unit) == ("ms", "s")
    rows, told = bm25.generated(2000, 30, 100), bm25.generated(20, 8, 101).inputs
    other = peer([[word for word in row if word] for row in rows.inputs.tolist()], k1=bm25.K1, b=bm25.B)
    having = {word: int((rows.inputs == word).any(1).sum()) for word in other.idf}
    other.idf = {word: math.log(1 + (2000 - rows + 0.5) / (rows + 0.5)) for word, rows in having.items()}  # as in Lucene; its own can be below 0
    hits = bm25.BM25(k1=bm25.K1, b=bm25.B).index(rows).search(told, 10)
    for words, places, scores in zip(told.tolist(), hits.places, hits.scores, strict=True):
        theirs = other.get_scores([word for word in words if word]) / (bm25.K1 + 1)
        np.testing.assert_allclose(scores[scores > 0], theirs[places[scores > 0]], rtol=1e-5)
        np.testing.assert_allclose(scores[scores > 0], np.sort(theirs)[::-1][: int((scores > 0).sum())], rtol=1e-5)


def test_a_command_that_fails_is_no_figure():
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        python("-c", "raise SystemExit(1)")()


@pytest.mark.slow
def test_planning_a_finished_sweep_a_page_and_the_store_are_measured():
    tiny = ("attack=none", "task=blobs", "seed=100,101")
    told = list(planning.measure(Options(), cells=tiny, sweep=(*tiny, "learner.epochs=1"), values=4, repeats=1))
    assert [len(each.ours_cost) for each in told] == [1, 1, 1, 1]
    assert "2 cells" in told[2].work
    assert "4 values" in told[3].work


def test_each_piece_of_work_is_measured_against_its_bound():
    told = list(bounds.measure(Options(), rows=128, parameters=500, features=20, repeats=1))
    assert [each.ours for each in told] == ["learner=small", "learner=mnist", "learner=pictures", "learner=quick", "spectral", "krum", "median"]
    small = 128 * 2 * (3 * 9 * (16 * 64 * 128 + 4 * 128 * 256) + 2 * 9 * 64 * 64 + 3 * 256 * 10)  # the first layer needs no gradient of its input
    assert f"{small / 1e9:.3g} GFLOP" in told[0].work


@pytest.mark.skipif(not (HOME / ".git").exists(), reason="a copy without its history")
def test_a_checkout_holds_the_project_as_it_was_and_goes_away():
    """Only this clone's own commits are there."""
    with checkout("HEAD") as tree:
        assert (tree / "poisonbench" / "__main__.py").is_file()
        poisonbench("list", home=tree)()
    assert not tree.exists()
    with pytest.raises(ValueError, match="nowhere is no commit of this clone"), checkout("nowhere"):
        pass


@pytest.mark.skipif(not (HOME / ".git").exists(), reason="a copy without its history")
def test_a_commit_that_is_not_there_is_one_sentence():
    with pytest.raises(SystemExit, match="benchmark against: nowhere is no commit of this clone"):
        main(["against", "--commit", "nowhere"])


@pytest.mark.slow
def test_versions_are_compared_command_by_command():
    tiny = ("attack=none", "task=blobs", "learner.epochs=1", "threads=1")
    listed = against.Case(work="list", words=("list",), results=False)
    again, new = against.Case(work="again, a word, another", words=tiny), against.Case(work="new", words=("-m", *tiny, "seed=0,1"), fresh=True)
    before = sorted(HOME.iterdir())
    told = list(against.measure(Options(commit="HEAD"), cases=(listed, again, new), repeats=2))
    assert [(each.work, len(each.ours_cost), len(each.alternative_cost)) for each in told] == [(case.work, 2, 2) for case in (listed, again, new)]
    assert sorted(HOME.iterdir()) == before, "results lie in the folder that was named"


def test_a_training_counts_once_in_a_grid():
    def record(seconds, stored, **keys):
        return Record(spec={}, keys=keys, cost={"seconds": seconds, "from_store": stored})

    records = [
        record({"fit baseline": 5.0, "fit defended": 2.0, "judge": 1.0}, [], **{"fit baseline": "a", "fit defended": "b", "judge": "j"}),
        record({"fit baseline": 5.0, "fit defended": 3.0}, ["fit baseline"], **{"fit baseline": "a", "fit defended": "c"}),
    ]
    assert grid.trainings(records) == {"a": 5.0, "b": 2.0, "c": 3.0}


@pytest.mark.slow
def test_a_grid_is_measured_against_its_trainings():
    (told,) = grid.measure(Options(), grid=("task=blobs", "attack=none,badnets", "defense=none,random_drop", "learner.epochs=1", "seed=100"))
    assert "4 cells on digits, 4 distinct trainings" in told.work
    assert told.ours_cost > told.alternative_cost


def test_a_ratio_that_falls_by_more_than_a_tenth_is_named():
    before = {"a": 2.0, "b": 2.0, "c": 1.0}
    assert trend.slower(before, {"a": 1.79, "b": 1.81, "d": 0.1}) == {"a": (2.0, 1.79)}


def test_each_version_has_one_row_of_the_published_ratios(tmp_path, capsys):
    (tmp_path / "benchmarks").mkdir()
    for ratio in (4.0, 2.0):
        Benchmark(name="mine", comparisons=(dataclasses.replace(ONE, facts={"cpu_ratio": ratio}),), machine={}).write(tmp_path / "benchmarks")
        trend.main(tmp_path)
        (only,) = trend.read(tmp_path / "trend.json")
        assert only["ratios"] == {"mine: ten rows, a against b": ratio}
    assert "slower" not in capsys.readouterr().out, "a version is not compared with itself"
    trend.write(tmp_path / "trend.json", [trend.Row(version="0.0.1", commit="", ratios={"mine: ten rows, a against b": 3.0})])
    trend.main(tmp_path)
    assert "slower: mine: ten rows, a against b: 3 before, 2 now" in capsys.readouterr().out
    first, _ = trend.read(tmp_path / "trend.json")
    assert first["version"] == "0.0.1"


def test_the_committed_benchmarks_can_be_read():
    for path in (HOME / "results" / "benchmarks").glob("*.json"):
        assert read(path).name == path.stem


def test_label_errors_are_measured_against_cleanlab_with_the_same_network():
    pytest.importorskip("cleanlab")
    sides = list(label_errors.measure(Options(), words=("task=digits", "task.limit=300"), epochs=6, repeats=1))
    assert [each.ours.split()[0] for each in sides] == ["confident_learning"] * 2 + ["deep_knn"] * 2
    assert all(each.facts["cpu_ratio"] > 0 and each.facts["auroc"] > 0.7 and each.facts["auroc_of_alternative"] > 0.7 for each in sides)


def test_signing_and_checking_are_measured_against_hashlib():
    pytest.importorskip("model_signing")
    sides = list(signing.measure(Options(), mebibytes=2, files=4, repeats=1))
    assert [each.work for each in sides] == ["sign 2 MiB in 4 files", "verify 2 MiB in 4 files"]
    assert all(each.ratio > 0 for each in sides)
