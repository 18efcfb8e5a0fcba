"""Attacks on linear models, run on the rows of a small task."""

import pytest
import torch

from attacks.availability.bilevel import Bilevel, steepest
from attacks.convex import Box
from poisonbench.core.convex import linear_of, signs
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.rng import Key
from poisonbench.runner.stages import Line
from tests.unit.attacks.worlds import images, world

LEARNERS = {"logistic": ("learner=logistic",), "svm": ("learner=svm", "learner.kernel=linear")}


def losses(experiment, store, *plans: object) -> list[float]:
    """Return the mean loss on clean rows of the victim that each attack leaves."""
    found, clean = [], experiment.task.train
    for plan in plans:
        line = Line(experiment=experiment, store=store)
        rows = plan.poison(line.known(), Key.root(100)).data if plan else clean
        model = linear_of(line.fit(line.learner, rows, line.honest))
        margins = signs(clean.labels) * model.scores(clean.form.table(clean.inputs).double())
        found.append(float(model.loss.value(margins).mean()))
    return found


@pytest.mark.parametrize("kind", LEARNERS)
def test_more_steps_leave_a_victim_with_a_larger_loss(tiny, store, kind):
    experiment = tiny("attack=bilevel", *LEARNERS[kind])
    plans = [Bilevel(points=points, steps=steps, step_size=0.2, validation=0.3) for points, steps in (("together", 1), ("together", 10), ("one_by_one", 10))]
    clean, few, many, each = losses(experiment, store, None, *plans)
    assert clean * 1.2 < few < min(many, each)


def test_inserted_rows_have_the_other_label_and_stay_in_the_box(tiny, store):
    line = Line(experiment=tiny("attack=bilevel"), store=store)
    clean, poisoned = line.experiment.task.train, line.struck()
    new = poisoned.data.take(poisoned.mask)
    assert len(new) == int(0.03 * len(clean))
    assert (new.inputs <= clean.inputs.amax(0)).all()
    assert (new.inputs >= clean.inputs.amin(0)).all()
    assert torch.equal(new.labels, 1 - clean.labels[poisoned.origins])


def test_a_step_moves_the_fastest_column_by_one_side_of_the_box():
    box = Box(low=torch.zeros(1, 2), high=torch.tensor([[10.0, 1.0]]))
    assert steepest(torch.tensor([[1.0, 5.0]]), box).tolist() == [[10.0, 0.5]]


def test_a_surrogate_that_is_not_linear_is_refused():
    class Sure:
        pass

    with pytest.raises(Incompatible, match="linear"):
        Bilevel(points="together", steps=1, step_size=0.2, validation=0.3).poison(world(images(kinds=2), rate=0.1, fit=lambda data: Sure()), Key.root(0))


@pytest.mark.parametrize("fields", [{"steps": 0}, {"step_size": 0.0}, {"step_size": 1.5}, {"validation": 1.0}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=r"attack\.data"):
        Bilevel(**{"points": "together", "steps": 1, "step_size": 0.2, "validation": 0.3} | fields)
