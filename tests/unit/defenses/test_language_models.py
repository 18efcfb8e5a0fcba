"""Defenses that were written for pictures, on language models."""

import pytest

from poisonbench.runner.pipeline import run

ANSWERING = ("task=world", "attack=none")
WRITING = ("attack=denial_backdoor",)
PARTS = ("defense.train.parts=2",)


@pytest.mark.parametrize(
    ("words", "name"),
    [(ANSWERING, "spectral"), (ANSWERING, "near_copies"), (ANSWERING, "fine_tune"), (WRITING, "spectral"), (WRITING, "activation_clustering")],
)
def test_what_reads_features_or_rows_runs_unchanged(tiny, shared, words, name):
    record = run(tiny(*words, f"defense={name}"), shared)
    assert record.status == "done", record.reason


def test_an_ensemble_votes_on_answers_and_writes_no_texts(tiny, shared):
    assert run(tiny(*ANSWERING, "defense=dpa", *PARTS), shared).metrics["member_c_acc"] >= 0
    assert "no samples" in run(tiny(*WRITING, "defense=dpa", *PARTS), shared).reason


def test_dp_sgd_reads_no_words(tiny, shared):
    record = run(tiny(*ANSWERING, "defense=dp_sgd"), shared)
    assert record.status == "skipped"
    assert "tokens" in record.reason
