"""Certificates behind filters, by brute force: rows are inserted, deleted, relabelled and edited before the filter, and no certified answer may change.

The filter, the ensemble and the certificate are those of a run. The rows are a handful in the plane, and each member is a nearest class mean, whose
bits depend only on its own rows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import special

from defenses.certify import bagging
from defenses.certify.collective import CollectiveCertificate
from defenses.certify.dp_ensemble import MOVES, Mechanism
from defenses.certify.dpa import DpaCertificate
from defenses.certify.finite_aggregation import FiniteAggregationCertificate
from defenses.certify.hash_bagging import HashBaggingCertificate
from defenses.certify.never import NeverCertificate
from defenses.certify.run_off_election import RunOffCertificate
from defenses.feasible import Shape
from defenses.sanitize.certified_trim import CertifiedTrim
from defenses.sanitize.spectral import SpectralSignatures
from defenses.sanitize.trusted_outlier import TrustedOutlier
from defenses.train.dpa import Ensemble
from defenses.train.hash_bagging import Groups
from poisonbench.config.build import build
from poisonbench.config.compose import CONFIGS, options, tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Defense, Means
from poisonbench.core.electorate import Change
from poisonbench.core.plugins import OWN
from poisonbench.core.rng import Key

CENTRES = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
EVERY: tuple[Change, ...] = ("insert", "delete", "flip", "edit")
PUSH, DEMAND, TRIES = 100, 5000, 2  # instances, and attacks on each


@dataclass(frozen=True, eq=False)
class Means2:
    """A trained member: (K, 2) means of its classes, far away where it has no row."""

    centres: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class NearestMean:
    """The recipe of the members."""

    def fit_many(self, parts: Sequence[Dataset], combine: object, rngs: Sequence[Key]) -> list[Means2]:
        return [Means2(means_of(part)) for part in parts]

    def scores_many(self, victims: Sequence[Means2], inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        centres = torch.stack([victim.centres for victim in victims])
        yield -(inputs[:, None, None] - centres).square().sum(3)


def means_of(data: Dataset) -> torch.Tensor:
    member = torch.nn.functional.one_hot(data.labels, data.num_classes).double()
    counts = member.sum(0)
    return torch.where(counts[:, None] > 0, member.T @ data.inputs.double() / counts.clamp_min(1)[:, None], 1e3)


class AsTheyAre:
    """Features are the inputs."""

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """An instance: rows before the filter, rows to ask about, and what the defender knows."""

    rows: Dataset
    test: torch.Tensor
    means: Means
    dice: random.Random


def world(dice: random.Random, most: int = 14) -> World:
    kinds, generator = dice.choice((2, 3)), torch.Generator().manual_seed(dice.getrandbits(30))

    def drawn(count: int, spread: float, labels: torch.Tensor | None = None) -> Dataset:
        labels = torch.randint(0, kinds, (count,), generator=generator) if labels is None else labels
        return Dataset.of((CENTRES[labels] + spread * torch.randn(count, 2, generator=generator)).round(decimals=1), labels, num_classes=kinds)

    rows, trusted, test = drawn(dice.randint(most // 2, most), 1.2), drawn(5 * kinds, 1.0, torch.arange(5 * kinds) % kinds), drawn(6, 1.5).inputs
    means = Means(trusted=trusted, fit=lambda data, draw=0: AsTheyAre(), tune=None, truth=torch.zeros(0, dtype=torch.bool))
    return World(rows=rows, test=test, means=means, dice=dice)


def outliers(dice: random.Random) -> TrustedOutlier:
    return TrustedOutlier(neighbours=dice.choice((1, 2)), percentile=dice.choice((0.6, 0.9, 1.0)))


def trims(dice: random.Random) -> CertifiedTrim:
    return CertifiedTrim(shape=Shape(sphere=dice.choice((0.6, 0.9)), slab=dice.choice((0.6, 1.0)), standardise=dice.random() < 0.5))


def kept(sanitize: object, rows: Dataset, at: World) -> Dataset:
    return rows.take(sanitize.judge(rows, at.means, Key.root(0)).keep)


def changed(at: World, change: Change, count: int) -> Dataset:
    """The rows after `count` changes, each of which an attacker would choose: near what is asked, or far from everything, under another label."""
    rows, dice = at.rows, at.dice
    pool = torch.cat([at.test, CENTRES + 0.1, rows.inputs, torch.full((2, 2), 30.0)])
    copies = dice.random() < 0.4
    points = pool[[dice.randrange(len(pool))] * count if copies else [dice.randrange(len(pool)) for _ in range(count)]]
    points = points + 0.01 * torch.tensor([[dice.randrange(50), dice.randrange(50)] for _ in range(count)])
    label = dice.randrange(rows.num_classes)
    labels = torch.tensor([label if copies else dice.randrange(rows.num_classes) for _ in range(count)])
    if change == "insert":
        return rows.append(Dataset.of(points, labels, num_classes=rows.num_classes))
    places = torch.tensor(dice.sample(range(len(rows)), min(count, len(rows) - 1)))
    if change == "delete":
        return rows.take(~torch.isin(torch.arange(len(rows)), places))
    if change == "flip":
        return rows.edit(places, labels=(rows.labels[places] + 1 + labels[: len(places)] % (rows.num_classes - 1)) % rows.num_classes)
    return rows.edit(places, inputs=points[: len(places)])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an instance ended: whether anything was promised, and how many attacks broke what was, or broke it with one row more."""

    promised: bool
    broken: int = 0
    beyond: int = 0


def voted(learner: Callable[[random.Random], object], certificate: Callable[[Change], object], changes: tuple[Change, ...]) -> Callable[..., Outcome]:
    """The check of an ensemble whose answers change only if votes do."""

    def check(at: World, sanitize: object) -> Outcome:
        change = at.dice.choice(changes)
        recipe, proof = learner(at.dice), certificate(change)
        if not len(rows := kept(sanitize, at.rows, at)):
            return Outcome(promised=False)
        victim = recipe.fit(rows, None, Key.root(1))
        before = victim.scores(at.test).argmax(1)
        radii = proof.certify(victim, Dataset.of(at.test, before, num_classes=at.rows.num_classes))
        if int(radii.max()) < 1:
            return Outcome(promised=False)
        broken = beyond = 0
        for _ in range(TRIES):
            count = at.dice.randint(1, int(radii.max()) + 1)
            rows = kept(sanitize, changed(at, change, count), at)
            if not len(rows):
                continue
            after = recipe.fit(rows, None, Key.root(1)).scores(at.test).argmax(1)
            broken += bool(((radii >= count) & (after != before)).any())
            beyond += bool(((radii < count) & (after != before)).any())
        return Outcome(promised=True, broken=broken, beyond=beyond)

    return check


def all_at_once(at: World, sanitize: object) -> Outcome:
    """The collective certificate: how many answers one attack leaves."""
    recipe, change, count = Ensemble(member=NearestMean(), parts=5), at.dice.choice(EVERY), at.dice.choice((1, 1, 2))
    if not len(rows := kept(sanitize, at.rows, at)):
        return Outcome(promised=False)
    victim = recipe.fit(rows, None, Key.root(1))
    before = victim.scores(at.test).argmax(1)
    answered = Dataset.of(at.test, before, num_classes=at.rows.num_classes)
    left = CollectiveCertificate(change=change, radii=(count,), nodes=1000).together(victim, answered)[count]
    if left == 0:
        return Outcome(promised=False)
    broken = beyond = 0
    for _ in range(TRIES):
        rows = kept(sanitize, changed(at, change, count), at)
        if not len(rows):
            continue
        share = float((recipe.fit(rows, None, Key.root(1)).scores(at.test).argmax(1) == before).double().mean())
        broken += share < left - 1e-9
        beyond += share < 1
    return Outcome(promised=True, broken=broken, beyond=beyond)


def bagged(at: World, sanitize: object) -> Outcome:
    """Bagging, every bag its own member: its likeliest answer, by counting."""
    small = dataclasses.replace(at, rows=at.rows.take(torch.arange(min(6, len(at.rows)))), test=at.test[:2])
    drawn, change = at.dice.choice((1, 2)), at.dice.choice(("insert", "delete", "flip", "edit"))

    def shares(rows: Dataset) -> np.ndarray:
        bags = torch.tensor(list(itertools.product(range(len(rows)), repeat=drawn)))
        member = torch.nn.functional.one_hot(rows.labels, rows.num_classes).double()[bags]
        totals, counts = torch.einsum("bsk,bsd->bkd", member, rows.inputs.double()[bags]), member.sum(1)[:, :, None]
        centres = torch.where(counts > 0, totals / counts.clamp_min(1), 1e3)
        scores = -(small.test[:, None, None] - centres).square().sum(3)
        return torch.nn.functional.one_hot(scores.argmax(2), rows.num_classes).double().mean(1).numpy()

    rows = kept(sanitize, small.rows, small)
    if len(rows) < 2:
        return Outcome(promised=False)
    before = shares(rows)
    ordered = np.sort(before, 1)
    leads = ordered[:, -1] - ordered[:, -2] - 1e-9  # the inequality is strict, and these shares are exact
    radii = np.array([bagging.radius(float(lead), len(rows), drawn) for lead in leads])
    if radii.max() < 1:
        return Outcome(promised=False)
    broken = beyond = 0
    for _ in range(TRIES):
        count = at.dice.randint(1, int(radii.max()) + 1)
        poisoned = kept(sanitize, changed(small, change, count), small)
        if not len(poisoned):
            continue
        after = shares(poisoned)
        lost = [np.sort(np.delete(row, own))[-1] >= row[own] for row, own in zip(after, before.argmax(1), strict=True)]
        broken += bool(np.any((radii >= count) & lost))
        beyond += bool(np.any((radii < count) & lost))
    return Outcome(promised=True, broken=broken, beyond=beyond)


def noised(at: World, sanitize: object, believed: Callable[[Mechanism], Mechanism] = lambda training: training) -> Outcome:
    """Private steps of a linear model: clipped gradients of the rows that a step draws, summed and noised; the chance of an answer is enumerated.

    A row joins a step with chance q, so how often it joins T steps is binomial. Its part of a score is rounded to tenths, towards 0,
    which clips it no less; then a score is a sum on a lattice, and Gaussian noise of all steps. `believed` is the accounting.
    """
    dice = at.dice
    noise, (rate, steps), change, count = dice.choice((1.0, 3.0)), dice.choice(((1.0, 1), (0.5, 6), (0.25, 4))), dice.choice(sorted(MOVES)), dice.randint(1, 3)

    def chance(parts_N: np.ndarray) -> float:
        reach = int(np.abs(parts_N).sum()) * steps  # no sum leaves the lattice, so none that counts is rolled over its end
        turns = np.exp(-2j * np.pi * np.outer(parts_N, np.arange(reach + 1)) / (2 * reach + 1))
        sums = np.fft.fftshift(np.fft.irfft(((1 - rate + rate * turns) ** steps).prod(0), 2 * reach + 1))  # of binomial shares, by their transforms
        return float(sums @ special.ndtr(np.arange(-reach, reach + 1) / 10 / (noise * math.sqrt(steps))))

    def chances(rows: Dataset) -> np.ndarray:
        signs = torch.where(rows.labels == 0, 1.0, -1.0)
        gradients = torch.nn.functional.normalize(rows.inputs.double() - 1.5) * signs[:, None]
        asked = torch.nn.functional.normalize(at.test.double() - 1.5)
        return np.array([chance(parts) for parts in torch.trunc(10 * asked @ gradients.T).long().numpy()])

    before, training = chances(kept(sanitize, at.rows, at)), believed(Mechanism(noise=noise, rate=rate, steps=steps))
    floor, ceiling, beyond = training.floor(before, count, change), training.ceiling(before, count, change), training.floor(before, 1, "insert")
    sound = np.abs(before - 0.5) < 0.5 - 1e-6  # next to 0 and 1 a double has no room left
    broken = more = 0
    for _ in range(TRIES):
        after = chances(kept(sanitize, changed(at, change, count), at))
        broken += bool((sound & ((after < floor - 1e-9) | (after > ceiling + 1e-9))).any())
        more += bool((after < beyond - 1e-9).any()) and (count > 1 or len(MOVES[change]) > 1)
    return Outcome(promised=bool((floor > 0.5).any()), broken=broken, beyond=more)


CHECKS: dict[str, Callable[[World, object], Outcome]] = {
    "DpaCertificate": voted(lambda dice: Ensemble(member=NearestMean(), parts=dice.choice((3, 5))), lambda change: DpaCertificate(change=change), EVERY),
    "NeverCertificate": voted(
        lambda dice: Ensemble(member=NearestMean(), parts=dice.choice((3, 5))), lambda change: NeverCertificate(change=change, classes=None), EVERY
    ),
    "FiniteAggregationCertificate": voted(
        lambda dice: Ensemble(member=NearestMean(), parts=3, spread=2), lambda change: FiniteAggregationCertificate(change=change), EVERY
    ),
    "RunOffCertificate": voted(lambda dice: Ensemble(member=NearestMean(), parts=5, rule="run_off"), lambda change: RunOffCertificate(change=change), EVERY),
    "HashBaggingCertificate": voted(
        lambda dice: Groups(member=NearestMean(), groups=2, parts=dice.choice((3, 4))), lambda change: HashBaggingCertificate(change=change), EVERY
    ),
    "CollectiveCertificate": all_at_once,
    "BaggingCertificate": bagged,
    "DpCertificate": noised,
}


def told(name: str, sanitize: Callable[[random.Random], object], count: int, seed: int, enough: float = math.inf) -> Outcome:
    """Run so many instances in which something is promised, or until enough promises are broken, and add up."""
    dice, found, broken, beyond = random.Random(f"{name}{seed}"), 0, 0, 0
    while found < count and broken < enough:
        outcome = CHECKS[name](world(dice), sanitize(dice))
        found, broken, beyond = found + outcome.promised, broken + outcome.broken, beyond + outcome.beyond
    return Outcome(promised=True, broken=broken, beyond=beyond)


def defenses(slot: str) -> list[Defense]:
    """Every defense of the registry that fills a slot."""
    names = [name for name in options("defense") if f"{slot}:" in (CONFIGS / "defense" / f"{name}.yaml").read_text()]
    return [build(tree_of([f"defense={name}"])["defense"], OWN, "defense") for name in names]


def test_every_pair_that_is_allowed_is_tried():
    """By discovery: a filter or a certificate that says it may stand here has to have a check."""
    certifiers = {type(plan.certify).__name__ for plan in defenses("certify") if "each row alone" in plan.certify.TOLERATES.get("sanitize", ())}
    filters = {type(plan.sanitize).__name__ for plan in defenses("sanitize") if getattr(plan.sanitize, "LOOKS_AT", "") == "each row alone"}
    inputs = {"AblationCertificate"}  # whatever the filter does, it proves something about the test picture
    passages = {"PassageVoteCertificate"}, {"Perplexity"}  # of retrieval: tests/unit/defenses/test_robust_rag.py tries every insertion
    assert certifiers - inputs - passages[0] == set(CHECKS)
    assert filters - passages[1] == {"TrustedOutlier", "CertifiedTrim"}


@pytest.mark.parametrize("name", CHECKS)
def test_no_change_of_rows_before_a_filter_beats_a_certificate(name):
    outcome = told(name, outliers, PUSH, seed=0)
    assert outcome.broken == 0
    assert outcome.beyond > 0, "attacks that never turn an answer say nothing"


@pytest.mark.parametrize("name", ["DpaCertificate", "BaggingCertificate"])
def test_no_change_of_rows_before_slab_and_sphere_beats_a_certificate(name):
    outcome = told(name, trims, PUSH // 2, seed=2)
    assert outcome.broken == 0
    assert outcome.beyond > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_no_change_of_rows_before_a_filter_beats_a_certificate_in_five_thousand_instances(name):
    assert told(name, outliers, DEMAND, seed=1).broken == 0


def spectral(dice: random.Random) -> SpectralSignatures:
    return SpectralSignatures(expected_rate=0.15, score="paper", classes="suspected", margin=1.5, keep_at_least=0.2)


@pytest.mark.parametrize("name", CHECKS)
def test_the_same_changes_do_beat_it_behind_a_filter_that_looks_at_all_rows(name):
    """A pair that is refused: a row that comes decides about rows that were there."""
    assert told(name, spectral, PUSH, seed=0, enough=1).broken > 0


@pytest.mark.parametrize(
    "believed",
    [
        lambda training: dataclasses.replace(training, steps=1),
        lambda training: dataclasses.replace(training, rate=training.rate**2),
        lambda training: dataclasses.replace(training, noise=2 * training.noise),
    ],
    ids=["one step for all", "the rate counted twice", "noise counted twice"],
)
def test_an_accounting_that_spends_too_little_is_beaten(believed):
    dice, broken = random.Random(0), 0
    for _ in range(PUSH):
        broken += noised(world(dice), outliers(dice), believed).broken
        if broken:
            break
    assert broken > 0
