"""The robust loss as a defense: where it acts, and where it is skipped."""

import pytest
import torch

from defenses.train.robust_preference import RobustPreferenceStep
from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Moment, Plan
from poisonbench.core.rng import Key
from poisonbench.learn.objectives import NEXT_WORD, Preference
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from tests.unit.attacks.test_preference_flip import SMALL

PAIRS = (*SMALL, "threat.budget.count=10", "defense=robust_preference")


def moment(module):
    return Moment(module=module, plan=Plan(rows=1, epochs=1, steps=1, shape=(1,)), epoch=0, step=0, rng=Key.root(100))


def test_it_sets_the_noise_of_preferences_and_leaves_other_objectives_alone():
    step, module = RobustPreferenceStep(noise=0.3), torch.nn.Identity()
    step.begin(module, None)
    assert step.objective(NEXT_WORD, moment(module)) is NEXT_WORD
    assert step.finish(module, None) == {}
    step.begin(module, None)
    plain = Preference(beta=0.1, noise=0.0).anchored(module)
    robust = step.objective(plain, moment(module))
    assert (robust.settings.noise, robust.settings.beta, robust.reference) == (0.3, 0.1, module)
    assert step.finish(module, None) == {"preference_noise": 0.3}
    assert not [name for name in vars(module) if "robust" in name]


@pytest.mark.parametrize("noise", [0.5, -0.1])
def test_a_share_of_one_half_or_more_is_refused(noise):
    with pytest.raises(ConfigError, match=r"defense\.train\.step\.noise=.* lies in \[0, 0\.5\)"):
        RobustPreferenceStep(noise=noise)


def test_a_noise_of_zero_is_the_undefended_training_to_the_bit_and_another_is_not(store):
    lines = [Line(experiment=assemble(tree_of([*PAIRS, f"defense.train.step.noise={noise}"]), store), store=store) for noise in (0.0, 0.3)]
    data = lines[0].strike().data
    plain, zero, some = (here.fit(learner, data, here.honest) for here, learner in ((lines[0], lines[0].attacked), *((here, here.defended) for here in lines)))
    assert all(torch.equal(zero.state()[name], weights) for name, weights in plain.state().items())
    assert not all(torch.equal(some.state()[name], weights) for name, weights in plain.state().items())
    assert [victim.facts.get("preference_noise") for victim in (plain, zero, some)] == [None, 0.0, 0.3]


def test_a_run_without_pairs_is_skipped_with_the_reason(store):
    record = run(assemble(tree_of(["task=sentiment", "defense=robust_preference", "threads=1"]), store), store)
    assert record.status == "skipped"
    assert record.reason.startswith("defense: RobustPreferenceStep works on the column response, and the training rows of sentiment have none; choose a task")


def test_a_learner_that_minimises_something_else_is_not_said_to_be_robust(store):
    words = [word for word in PAIRS if not word.startswith(("learner.", "attack=", "threat."))]
    record = run(assemble(tree_of(["task=preferences_world", "learner=language", *words]), store), store)
    assert record.status == "done"
    assert "preference_noise" not in record.facts
