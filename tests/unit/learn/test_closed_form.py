"""Solved models against scikit-learn and numpy."""

import numpy as np
import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import PlainStep, Trained
from poisonbench.core.rng import Key
from poisonbench.learn.closed_form import KernelRidge, LinearRidge
from poisonbench.nets.fixed import Pixels
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

KERNEL = KernelRidge(features=Pixels(), gamma=3.0, ridge=0.05, mirror=False, device="cpu")
LINEAR = LinearRidge(features=Pixels(), ridge=0.5, mirror=False, device="cpu")
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=GENERATOR)
DATA = Dataset.of(INPUTS, torch.randint(0, 3, (40,), generator=GENERATOR), num_classes=3)
ASKED = torch.randint(0, 256, (7, 1, 4, 4), dtype=torch.uint8, generator=GENERATOR)


@pytest.fixture
def honest(tiny, store):
    return Line(experiment=tiny(), store=store).honest


def features(inputs: torch.Tensor) -> np.ndarray:
    flat = inputs.flatten(1).double()
    return (flat / flat.norm(dim=1, keepdim=True)).numpy()


def targets(data: Dataset) -> np.ndarray:
    return np.eye(3)[data.labels.numpy()] - 1 / 3


def test_kernel_ridge_is_that_of_scikit_learn(honest):
    from sklearn.kernel_ridge import KernelRidge as Reference

    reference = Reference(alpha=0.05, kernel="rbf", gamma=3.0).fit(features(DATA.inputs), targets(DATA))
    scores = KERNEL.fit(DATA, honest, Key.root(0)).scores(ASKED)
    assert scores.numpy() == pytest.approx(reference.predict(features(ASKED)), abs=1e-4)


@pytest.mark.parametrize("rows", [40, 9])
def test_linear_ridge_is_its_closed_form_with_more_rows_than_features_and_with_fewer(honest, rows):
    data = DATA.take(torch.arange(rows))
    own = features(data.inputs)
    weights = np.linalg.solve(own.T @ own + 0.5 * np.eye(16), own.T @ targets(data))
    assert LINEAR.fit(data, honest, Key.root(0)).scores(ASKED).numpy() == pytest.approx(features(ASKED) @ weights, abs=1e-4)


@pytest.mark.parametrize("learner", [KERNEL, LINEAR])
def test_many_are_asked_as_one_after_the_other(honest, learner):
    parts = [DATA.take(torch.arange(place, 40, 3)) for place in range(3)]
    victims = learner.fit_many(parts, honest, [Key.root(0)] * 3)
    together = torch.cat(list(learner.scores_many(victims, ASKED)))
    assert together.shape == (7, 3, 3)
    assert together.allclose(torch.stack([victim.scores(ASKED) for victim in victims], 1), atol=1e-6)


@pytest.mark.parametrize("learner", [KERNEL, LINEAR])
def test_a_victim_comes_back_from_its_state(honest, learner):
    victim = learner.fit(DATA, honest, Key.root(0))
    assert learner.restore(Trained.of(victim), DATA, honest).scores(ASKED).equal(victim.scores(ASKED))


def test_mirror_images_are_rows_of_their_own(honest):
    import dataclasses

    both = DATA.append(DATA.edit(torch.arange(40), inputs=DATA.inputs.flip(-1)))
    mirrored = dataclasses.replace(KERNEL, mirror=True).fit(DATA, honest, Key.root(0)).scores(ASKED)
    assert mirrored.equal(KERNEL.fit(both, honest, Key.root(0)).scores(ASKED))


def test_a_step_of_a_training_has_no_place():
    with pytest.raises(Incompatible, match="no training steps"):
        KERNEL.with_step(PlainStep())


@pytest.mark.parametrize(("kind", "change"), [(KERNEL, {"gamma": 0.0}), (KERNEL, {"ridge": 0.0}), (LINEAR, {"ridge": -1.0})])
def test_systems_without_a_solution_are_refused(kind, change):
    import dataclasses

    with pytest.raises(ConfigError, match="above 0"):
        dataclasses.replace(kind, **change)


@pytest.mark.parametrize("learner", ["ridge", "kernel_ridge"])
def test_a_whole_run_of_an_ensemble_of_solved_members(tiny, store, learner):
    words = (f"learner={learner}", "attack=backdoor", "threat.budget.rate=0.05", "defense=dpa", "defense.train.parts=5")
    record = run(tiny(*words, "+learner@defense.train.member=kernel_ridge"), store)
    assert record.metrics["c_acc"] > 0.9
    assert record.metrics["certified"][0] == record.metrics["c_acc"]
    assert record.spec["defense"]["train"]["member"]["class"].endswith("KernelRidge")


def test_an_attacker_who_runs_the_training_is_skipped_with_a_reason(tiny, store):
    record = run(tiny("learner=ridge", "attack=wanet_training"), store)
    assert record.status == "skipped"
    assert "training step" in record.reason
