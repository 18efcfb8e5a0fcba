"""What the steps of a training minimise has to fit what the network gives."""

import pytest

from poisonbench.runner.pipeline import run
from tests.conftest import CHEAP


@pytest.mark.parametrize(("name", "reason"), [("robust_loss", "GeneralisedCrossEntropy"), ("mixup", "Mixed"), ("dp_sgd", "the other pairs of its batch")])
def test_a_step_that_needs_scores_of_classes_or_losses_of_single_rows_is_skipped_for_pairs(tiny, shared, name, reason):
    record = run(tiny("attack=clip_backdoor", f"defense={name}"), shared)
    assert record.status == "skipped"
    assert reason in record.reason
    assert "choose another defense" in record.reason


def test_a_step_that_needs_scores_of_classes_is_skipped_for_words(tiny, shared):
    record = run(tiny("attack=denial_backdoor", "defense=robust_loss"), shared)
    assert record.status == "skipped"
    assert "gives scores of the next word" in record.reason


@pytest.mark.parametrize("name", ["co_teaching", "ueraser", "dpa", "early_stop"])
def test_steps_around_any_objective_and_ensembles_act_on_pairs(tiny, shared, name):
    record = run(tiny("attack=clip_backdoor", f"defense={name}", "task.trusted=0.2", *CHEAP.get(name, ())), shared)
    assert record.status == "done", record.reason
