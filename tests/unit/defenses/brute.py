"""What an attacker who may change r things can really do to a vote, by trying everything."""

import itertools
import random

import torch

from poisonbench.core.electorate import Tally


def tally(scores: list[list[float]]) -> Tally:
    """The tally of one test row from (R, K) scores."""
    told = torch.tensor(scores)[None]
    return Tally(answers_MR=told.argmax(2).to(torch.int32), wins_MKK=(told[:, :, :, None] > told[:, :, None, :]).sum(1))


def said(answers: list[int], kinds: int) -> Tally:
    """The tally of one test row from R answers."""
    return tally(torch.nn.functional.one_hot(torch.tensor(answers), kinds).tolist())


def plurality(answers: list[int], kinds: int) -> int:
    return max(range(kinds), key=lambda kind: (answers.count(kind), -kind))


def run_off(scores: list[list[float]]) -> int:
    """The winner of two rounds, written as the paper tells it."""
    kinds = len(scores[0])
    answers = [max(range(kinds), key=lambda kind: (own[kind], -kind)) for own in scores]
    one, other = sorted(sorted(range(kinds), key=lambda kind: (-answers.count(kind), kind))[:2])
    against = sum(own[other] > own[one] for own in scores) - sum(own[one] > own[other] for own in scores)
    return other if against > 0 else one


def true_radius(answers: list[int], kinds: int, reached: list[list[list[int]]]) -> int:
    """The largest r such that no r changes bend a plurality; `reached[r - 1]` lists the members that some r changes reach."""
    first = plurality(answers, kinds)
    for changes, sets in enumerate(reached, start=1):
        for members in sets:
            for values in itertools.product(range(kinds), repeat=len(members)):
                other = list(answers)
                for member, value in zip(members, values, strict=True):
                    other[member] = value
                if plurality(other, kinds) != first:
                    return changes - 1
    return len(reached)


def reach_of(partitions: list[list[int]]) -> list[list[list[int]]]:
    """The members that any r of the partitions reach, for r from 1."""
    count = range(1, len(partitions) + 1)
    return [[sorted({member for some in chosen for member in some}) for chosen in itertools.combinations(partitions, changes)] for changes in count]


def true_run_off_radius(scores: list[list[float]]) -> int:
    """The largest r such that no r members, whatever they then score, bend a run-off."""
    first, orders = run_off(scores), [list(order) for order in itertools.permutations(range(len(scores[0])))]
    for changes in range(1, len(scores) + 1):
        for places in itertools.combinations(range(len(scores)), changes):
            for values in itertools.product(orders, repeat=changes):
                other = list(scores)
                for place, value in zip(places, values, strict=True):
                    other[place] = value
                if run_off(other) != first:
                    return changes - 1
    return len(scores)


def opinions(dice: random.Random, members: int, kinds: int) -> list[int]:
    """Answers that mostly agree, so that radii differ, and sometimes tie."""
    agreed = dice.choice((0.0, 0.5, 0.8))
    return [0 if dice.random() < agreed else dice.randrange(kinds) for _ in range(members)]


class Told:
    """An ensemble of which only the votes are known."""

    rule = "plurality"

    def __init__(self, votes, facts=None, touched=1):
        self.counts, self.facts, self.each = torch.tensor(votes), facts or {}, touched

    def tally(self, inputs):
        answers = torch.stack([torch.arange(len(own)).repeat_interleave(own) for own in self.counts])
        kinds = self.counts.shape[1]
        return Tally(answers_MR=answers.to(torch.int32), wins_MKK=torch.zeros(len(answers), kinds, kinds, dtype=torch.int64))

    def reach(self):
        return torch.arange(int(self.counts[0].sum()))[:, None]

    def touched(self, change):
        return self.each


for name in ("history", "module", "scores", "features", "state", "silenced"):
    setattr(Told, name, lambda self, *asked: None)
