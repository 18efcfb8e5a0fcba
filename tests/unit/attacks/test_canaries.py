"""Canaries: what they prove about epsilon, against mechanisms whose epsilon is known."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attacks.privacy.canaries import Reveal, chance, least_epsilon
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line


def test_all_guesses_right_by_hand():
    # 34 heads of 34 are no rarer than 1 in 20 when a head has chance 0.05 ** (1 / 34)
    head = 0.05 ** (1 / 34)
    assert least_epsilon(34, 34, 68, delta=0.0, confidence=0.95) == pytest.approx(math.log(head / (1 - head)), abs=1e-3)


def test_guesses_no_better_than_a_coin_prove_nothing():
    assert least_epsilon(17, 34, 68, delta=0.0, confidence=0.95) == 0.0
    assert least_epsilon(0, 34, 68, delta=1e-5, confidence=0.95) == 0.0


def test_a_delta_makes_the_bound_smaller():
    plain, spent = (least_epsilon(34, 34, 68, delta=delta, confidence=0.95) for delta in (0.0, 1e-4))
    assert 0 < spent < plain


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.01), (2.0, 0.003)])
def test_randomised_response_is_not_accused_of_more_than_it_spends(epsilon, delta):
    """Each bit is told outright with chance delta and by a coin of e^epsilon / (1 + e^epsilon) else: no mechanism tells more."""
    dice, canaries = np.random.default_rng(1), 200
    coin = 1 / (1 + math.exp(-epsilon))
    rights = (dice.random((1500, canaries)) < delta + (1 - delta) * coin).sum(1)
    accused = [least_epsilon(int(right), canaries, canaries, delta=delta, confidence=0.9) > epsilon for right in rights]
    assert np.mean(accused) <= 0.1 + 0.01
    if delta == 0 and epsilon > 0:
        assert np.mean(accused) > 0.04, "the bound is tight where randomised response is"


def test_a_chance_grows_with_epsilon_and_never_exceeds_one():
    dice = random.Random(0)
    for _ in range(100):
        guesses = dice.randint(1, 40)
        right, delta = dice.randint(0, guesses), dice.choice((0.0, 1e-5, 0.1))
        chances = [chance(right, guesses, guesses, epsilon, delta) for epsilon in (0.0, 0.5, 2.0, 8.0)]
        assert all(0 <= one <= 1 for one in chances)
        if delta == 0:
            assert chances == sorted(chances)


EMPTY = Dataset.of(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), num_classes=2)  # this goal needs no test rows


def goal(joined: torch.Tensor) -> Reveal:
    count = len(joined)
    return Reveal(inputs=torch.zeros(count, 1), labels=torch.zeros(count, dtype=torch.int64), joined=joined, guessed=0.5, confidence=0.95)


def test_a_model_that_remembers_is_found_out_and_one_that_does_not_is_left_alone():
    joined = Key.root(0).per_row(torch.arange(80))[:, 0] < 0.5
    remembers = SimpleNamespace(facts={}, scores=lambda inputs: torch.stack([joined.float() * 5, torch.zeros(80)], 1))
    told = goal(joined).measure(remembers, EMPTY, Key.root(100))
    assert told["canaries_right"] == 1.0
    assert told["epsilon_lower"] == pytest.approx(least_epsilon(40, 40, 80, delta=0.0, confidence=0.95))
    forgets = SimpleNamespace(facts={"delta": 1e-5}, scores=lambda inputs: torch.randn(80, 2, generator=Key.root(1).torch()))
    assert goal(joined).measure(forgets, EMPTY, Key.root(100))["epsilon_lower"] < 0.5


def test_too_few_canaries_say_nothing():
    assert goal(torch.tensor([True])).measure(SimpleNamespace(facts={}), EMPTY, Key.root(100)) == {}


def test_about_half_of_the_canaries_join_with_wrong_labels(tiny, store):
    experiment = tiny("attack=canaries")
    clean = experiment.task.train
    poisoned = Line(experiment=experiment, store=store).struck()
    asked, new = len(poisoned.goal.labels), poisoned.data.take(torch.arange(len(clean), len(poisoned.data)))
    assert asked == experiment.threat.budget.rows(len(clean))
    assert 0.3 * asked < len(new) < 0.7 * asked
    assert torch.equal(poisoned.goal.inputs[poisoned.goal.joined], new.inputs)
    for picture, label in zip(new.inputs, new.labels, strict=True):
        own = clean.labels[(clean.inputs == 255 - picture).flatten(1).all(1)]
        assert len(own)
        assert label not in own


def test_a_record_holds_the_lower_bound_beside_what_was_spent(tiny, store):
    record = run(tiny("attack=canaries", "defense=dp_sgd", "learner.epochs=2"), store)
    assert 0 <= record.metrics["goal"]["epsilon_lower"] <= record.facts["epsilon"]
    assert record.baseline["goal"]["epsilon_lower"] < 1.0


@pytest.mark.parametrize("word", ["attack.data.guessed=0", "attack.data.confidence=1"])
def test_shares_that_mean_nothing_are_refused(tiny, word):
    with pytest.raises(ConfigError):
        tiny("attack=canaries", word)
