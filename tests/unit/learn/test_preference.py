"""The loss of preferences, the model that it compares with, and its noise."""

import dataclasses
import math
from types import MappingProxyType

import pytest
import torch

from poisonbench.config.compose import tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Anchored, Batch, Moment, PlainStep, Tolerant
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.tokens import Tokens
from poisonbench.learn.objectives import NEXT_WORD, NextWord, Preference
from poisonbench.nets.gpt import Gpt
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line

FORM = Tokens(vocabulary=("", "<unk>", *"abcdef"))
NET = Gpt(width=8, layers=1, heads=1, spread=0.5)
ROWS = {
    "inputs": torch.tensor([[2, 3], [4, 0], [5, 2]]),
    "response": torch.tensor([[6, 0], [3, 4], [7, 0]]),
    "rejected": torch.tensor([[7, 5], [2, 0], [0, 0]]),  # the last row is no pair
}

SMALL = (
    *("threads=1", "task.texts=40", "task.things=1", "task.categories=4", "task.restricted=2", "task.instruction=40", "task.safety=10"),
    *("task.preference=40", "task.test_rows=20", "net.width=8", "net.layers=1", "net.heads=1"),
)


def net(seed, dtype=torch.float64):
    with seeded(Key.root(seed)):
        return NET.build(Dataset.of(ROWS["inputs"], torch.zeros(3, dtype=torch.int64), num_classes=2, form=FORM)).to(dtype)


def batch(rows=slice(0, 3), **columns):
    values = {name: column[rows] for name, column in (ROWS | columns).items()}
    inputs = values.pop("inputs")
    return Batch(inputs=inputs, labels=torch.zeros(len(inputs), dtype=torch.int64), ids=torch.arange(len(inputs)), form=FORM, extra=MappingProxyType(values))


@torch.no_grad()
def said(network, prompt, response):
    """The log-probability of a response and of its end, word by word."""
    text, total = [word for word in prompt if word], 0.0
    for word in [*[word for word in response if word], 0]:
        scores = network(torch.tensor([text]))[0, len(text)]
        total += float(scores.log_softmax(0)[word])
        text.append(word)
    return total


def test_the_loss_of_two_rows_by_hand():
    now, before = net(1), net(2)
    losses = Preference(beta=0.7, noise=0.0).anchored(before)(now, batch(slice(0, 2)), 0.0)
    for row, loss in enumerate(losses.tolist()):
        prompt, chosen, rejected = (ROWS[name][row].tolist() for name in ("inputs", "response", "rejected"))
        ahead = 0.7 * (said(now, prompt, chosen) - said(before, prompt, chosen) - said(now, prompt, rejected) + said(before, prompt, rejected))
        assert abs(ahead) > 0.1
        assert loss == pytest.approx(math.log(1 + math.exp(-ahead)), abs=1e-9)


def test_the_robust_loss_is_its_formula_and_undoes_swaps_on_average():
    now, before, rows = net(1), net(2), batch(slice(0, 2))
    swapped = batch(slice(0, 2), response=ROWS["rejected"], rejected=ROWS["response"])
    plain, robust = (Preference(beta=0.7, noise=noise).anchored(before) for noise in (0.0, 0.3))
    right, wrong = plain(now, rows, 0.0), plain(now, swapped, 0.0)
    torch.testing.assert_close(robust(now, rows, 0.0), (0.7 * right - 0.3 * wrong) / 0.4)
    torch.testing.assert_close(0.7 * robust(now, rows, 0.0) + 0.3 * robust(now, swapped, 0.0), right)


def test_without_noise_the_robust_loss_is_that_of_dpo_to_the_bit():
    now, before = net(1, torch.float32), net(2, torch.float32)
    plain, robust = Preference(beta=0.7, noise=0.0).anchored(before), Preference(beta=0.7, noise=0.3).anchored(before).tolerating(0.0)
    assert torch.equal(plain(now, batch(), 0.0), robust(now, batch(), 0.0))
    assert not torch.equal(plain(now, batch(), 0.0), robust.tolerating(0.1)(now, batch(), 0.0))


def test_before_the_first_step_the_loss_is_that_of_a_coin():
    now = net(1)
    torch.testing.assert_close(Preference(beta=0.7, noise=0.2).anchored(now)(now, batch(slice(0, 2)), 0.0), torch.full((2,), math.log(2)).double())


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_gradient_is_that_of_differences(noise):
    now, before = net(1), net(2)
    objective, names = Preference(beta=0.7, noise=noise).anchored(before), [name for name, _ in now.named_parameters()]

    def loss(*weights):
        def network(inputs):
            return torch.func.functional_call(now, dict(zip(names, weights, strict=True)), (inputs,))

        return objective(network, batch(), 0.0)

    weights = tuple(weight.detach().clone().requires_grad_() for weight in now.parameters())
    assert torch.autograd.gradcheck(loss, weights, fast_mode=True)


def test_rows_without_a_rejected_response_are_trained_on_by_their_words():
    now, before = net(1), net(2)
    losses = Preference(beta=0.7, noise=0.0).anchored(before)(now, batch(), 0.1)
    torch.testing.assert_close(losses[2:], NEXT_WORD(now, batch(slice(2, 3)), 0.1))
    alone = batch(rejected=torch.zeros_like(ROWS["rejected"]))
    torch.testing.assert_close(Preference(beta=0.7, noise=0.0).anchored(before)(now, alone, 0.1), NEXT_WORD(now, alone, 0.1))
    texts = dataclasses.replace(batch(), extra=MappingProxyType({}))
    torch.testing.assert_close(Preference(beta=0.7, noise=0.0).anchored(before)(now, texts, 0.1), NEXT_WORD(now, texts, 0.1))


@pytest.mark.parametrize("fields", [{"beta": 0.0}, {"beta": math.inf}, {"noise": 0.5}, {"noise": -0.1}])
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match="give a finite beta above 0"):
        Preference(**({"beta": 0.1, "noise": 0.0} | fields))


def test_only_the_objective_of_preferences_compares_and_tolerates():
    assert isinstance(Preference(beta=0.1, noise=0.0), Anchored)
    assert isinstance(Preference(beta=0.1, noise=0.0).anchored(net(1)), Tolerant)
    assert not isinstance(NextWord(), Anchored | Tolerant)
    with pytest.raises(NotImplementedError, match="call anchored first"):
        Preference(beta=0.1, noise=0.0)(net(1), batch(), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch(PlainStep):
    """Notes the first score that the reference and the model in training give in every step."""

    seen: list

    def objective(self, objective, moment: Moment):
        with torch.no_grad():
            self.seen.append(tuple(float(network(ROWS["inputs"][:1])[0, 0, 2]) for network in (objective.reference, moment.module)))
        return objective


def test_the_reference_is_the_model_at_the_start_of_the_stage_and_stays_as_it_is(store):
    experiment, seen = assemble(tree_of(["task=preferences_world", "task.pretrained=false", *SMALL]), store), []
    line, learner, data = Line(experiment=experiment, store=store), experiment.learner, experiment.task.train
    pairs = data.take(data.extra["stage"] == 3)
    start = learner.instruction.begin(pairs, Key.root(100))
    before = float(start.net(ROWS["inputs"][:1])[0, 0, 2].detach())
    learner.preference.with_step(Watch(seen=seen)).with_epochs(3).fit(pairs, line.honest, Key.root(100), start)
    references, models = zip(*seen, strict=True)
    assert {*references} == {before}
    assert models[0] == before
    assert len({*models}) > 2
