"""STRIP on rows of words; for pictures see test_repair."""

import math

import torch

from defenses.screen.strip import Strip
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens

FORM = Tokens(vocabulary=("", "<unk>", *(f"w{number}" for number in range(18))))
TRIGGER = 19


def suspicion(victim, inputs: torch.Tensor, trusted: torch.Tensor, overlays: int = 50) -> torch.Tensor:
    rows = Dataset.of(trusted, torch.zeros(len(trusted), dtype=torch.int64), num_classes=4, form=FORM)
    means = Means(trusted=rows, fit=None, tune=None, truth=torch.zeros(0, dtype=torch.bool))
    return Strip(overlays=overlays, weight=1.0).suspicion(victim, inputs, means, Key.root(0))


class FirstOf:
    """Undecided between as many of four classes as the third word, of ids 2 to 5, says."""

    def scores(self, inputs):
        return torch.where(torch.arange(4) < inputs[:, 2, None] - 1, 0.0, -1e4)


def test_entropies_of_different_inputs_are_not_mixed_up():
    inputs = torch.tensor([[9, 9, 2], [9, 9, 3], [9, 9, 4], [9, 9, 5]])
    short = torch.tensor([[7, 8, 0], [8, 7, 0]])  # no word comes to the third place
    torch.testing.assert_close(suspicion(FirstOf(), inputs, short), torch.tensor([-0.0, -math.log(2), -math.log(3), -math.log(4)]))


class Triggered:
    """Sure of class 0 where the trigger is in the row; else as sure of class 1 or 2 as there are more words below or above 10."""

    def scores(self, inputs):
        low, high = (((inputs > 1) & (inputs < 10)).sum(1), ((inputs >= 10) & (inputs < TRIGGER)).sum(1))
        return torch.stack([100.0 * (inputs == TRIGGER).any(1), low.float(), high.float(), torch.full((len(inputs),), -100.0)], 1)


def test_a_text_that_stays_certain_while_its_words_are_replaced_is_suspicious():
    generator = Key.root(1).torch()
    trusted, clean = (torch.randint(2, TRIGGER, (40, 8), generator=generator) for _ in range(2))
    triggered = clean.clone()
    triggered[:, 3] = TRIGGER
    found = suspicion(Triggered(), torch.cat([clean, triggered]), trusted)
    # the trigger stays in half of the mixtures, which then have the entropy 0
    assert (found[40:] > found[:40]).all()
    torch.testing.assert_close((found[40:] / found[:40]).mean(), torch.tensor(0.5), atol=0.1, rtol=0)
