"""Rules, filters and the accountant against other implementations, on random cases.

The other implementations are ByzFL, numpy, scikit-learn and Google's dp-accounting; none is needed to run poisonbench.
"""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from defenses.aggregate.geometric_median import GeometricMedian
from defenses.aggregate.krum import Krum
from defenses.aggregate.median import Median
from defenses.aggregate.multi_krum import MultiKrum
from defenses.aggregate.norm_clip import NormClip
from defenses.aggregate.trimmed_mean import TrimmedMean
from defenses.sanitize.activation_clustering import reduced, split
from defenses.sanitize.spectral import SpectralSignatures, signature
from defenses.train.dp_sgd import ORDERS, spent_epsilon
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Server
from poisonbench.core.rng import Key

Dice = np.random.Generator


def close(ours: object, theirs: object, **tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), **{"rtol": 1e-9, "atol": 1e-12, **tolerance})


def rules(dice: Dice) -> None:
    """ByzFL takes the n - f - 1 nearest where Krum's paper takes n - f - 2, so its f + 1 is the paper's f."""
    import byzfl

    f = int(dice.integers(0, 5))
    n, width = 2 * f + 3 + int(dice.integers(0, 6)), int(dice.integers(1, 40))
    rows = dice.normal(dice.normal(0, 10), 1, (n, width))
    rows[:f] += dice.normal(0, 20, width)
    ours, server = torch.from_numpy(rows), Server(round=0, state=torch.zeros(width), malicious=f, reference=lambda: torch.zeros(width))
    close(Krum(malicious=None, variant="paper")(ours, server), byzfl.Krum(f + 1)(rows))
    close(Krum(malicious=None, variant="byzfl")(ours, server), byzfl.Krum(f)(rows))
    close(MultiKrum(malicious=None, kept=n - f - 1)(ours, server), byzfl.MultiKrum(f + 1)(rows))
    close(TrimmedMean(malicious=None)(ours, server), byzfl.TrMean(f)(rows))
    close(Median()(ours, server), byzfl.Median()(rows))
    bound = float(dice.uniform(0.1, 10))
    close(NormClip(bound=bound)(ours, server), byzfl.Average()(byzfl.Clipping(bound)(rows)))
    middle, steps = rows.mean(0), int(dice.integers(1, 20))  # ByzFL begins at zero, the paper at the mean
    close(GeometricMedian(steps=steps, smoothing=1e-3)(ours, server), byzfl.GeometricMedian(nu=1e-3, T=steps)(rows - middle) + middle)


def spectral(dice: Dice) -> None:
    """Algorithm 1 of its paper, by numpy's singular value decomposition."""
    kinds, width = int(dice.integers(2, 5)), int(dice.integers(2, 12))
    labels = np.repeat(np.arange(kinds), dice.integers(6, 30, kinds))
    features = dice.normal(0, 1, (len(labels), width)).astype(np.float32) + dice.normal(0, 3, (kinds, width)).astype(np.float32)[labels]
    rate, scores, dropped = float(dice.uniform(0.01, 0.2)), np.zeros(len(labels)), set[int]()
    for label in range(kinds):
        (rows,) = np.nonzero(labels == label)
        centred = features[rows].astype(np.float64) - features[rows].astype(np.float64).mean(0)
        _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
        scores[rows] = (centred @ directions[0]) ** 2
        close(signature(torch.from_numpy(features[rows]), centre=True)[1], sizes[0] ** 2 / (sizes**2).sum(), rtol=1e-6)
        count = min(round(1.5 * rate * len(labels)), len(rows) // 2)
        dropped |= set(rows[np.argsort(-scores[rows])][:count].tolist())
    data = Dataset.of(torch.from_numpy(features), torch.from_numpy(labels), num_classes=kinds)
    rule = SpectralSignatures(expected_rate=rate, score="paper", classes="all", margin=1.5, keep_at_least=0.5)
    verdict = rule.judge(data, means(data), Key.root(0))
    close(verdict.suspicion, scores, rtol=1e-5, atol=1e-6)
    assert {row for row in range(len(labels)) if not verdict.keep[row]} == dropped


class AsTheyAre:
    """Features are the inputs."""

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def means(data: Dataset) -> Means:
    return Means(trusted=data, fit=lambda rows, draw=0: AsTheyAre(), tune=None, truth=torch.zeros(0, dtype=torch.bool))


def clustering(dice: Dice) -> None:
    """Principal components by numpy; of all ways to cut a class in two, the one with the least squares; its silhouette by definition."""
    from sklearn.metrics import silhouette_samples

    rows, width, dims = int(dice.integers(8, 13)), int(dice.integers(4, 8)), int(dice.integers(1, 4))
    features = dice.normal(0, 1, (rows, width)).astype(np.float32)
    features[: int(dice.integers(2, rows // 2))] += dice.choice([-8, 8], width).astype(np.float32)
    centred = features.astype(np.float64) - features.astype(np.float64).mean(0)
    points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:dims].T
    ours = reduced(torch.from_numpy(features), "pca", dims, Key.root(0))
    close(np.abs(ours), np.abs(points), rtol=1e-6, atol=1e-8)  # a component has no sign

    cuts = np.array([(False, *cut) for cut in itertools.product((False, True), repeat=rows - 1)][1:])
    sums, counts = [cut.astype(float) @ points for cut in (cuts, ~cuts)], [cut.sum(1)[:, None] for cut in (cuts, ~cuts)]
    best = cuts[sum((total**2 / count).sum(1) for total, count in zip(sums, counts, strict=True)).argmax()]
    small = best if best.sum() < rows - best.sum() else ~best
    found = split(ours, Key.root(int(dice.integers(100))))
    assert found.smaller.tolist() == small.tolist()
    close(found.silhouette(), silhouette_samples(points, best).mean(), rtol=1e-6)
    large, centre = points[~small].mean(0), points[small].mean(0)
    close(found.suspicion, (points - large) @ (centre - large) / ((centre - large) ** 2).sum(), rtol=1e-4, atol=1e-5)


def steps_of(dice: Dice) -> tuple[float, float, int, float]:
    """Noise multiplier, sampling rate, steps and delta."""
    return float(dice.uniform(0.6, 5)), float(10 ** dice.uniform(-3, -0.5)), int(dice.integers(1, 2000)), float(10 ** dice.uniform(-7, -3))


def accountant(dice: Dice) -> None:
    """Renyi divergences of Poisson-sampled Gaussian steps: Google's of whole orders, as its fractional ones are bounds, and their integral."""
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    noise, rate, steps, delta = steps_of(dice)
    orders, ours = ORDERS["rdp"]["alphas"], spent_epsilon("rdp", noise, rate, steps, delta)
    theirs = RdpAccountant([int(order) for order in orders if order == int(order)])
    theirs.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), steps)
    epsilon, order = theirs.get_epsilon_and_optimal_order(delta)
    assert ours <= epsilon * (1 + 1e-6)
    if order > 12:  # at 12 and below, a fraction may be better
        close(ours, epsilon, rtol=1e-6)
    close(ours, min(_converted(order, steps * _divergence(order, rate, noise), delta) for order in orders), rtol=1e-4)


def _divergence(order: float, rate: float, noise: float) -> float:
    """Return the Renyi divergence of one step: the mixture against the Gaussian, by the trapezoid rule."""
    points = np.linspace(-12 * noise, order + 12 * noise, 501 if order < 64 else 8001)
    logs = -((points / noise) ** 2) / 2 - np.log(noise * np.sqrt(2 * np.pi))
    logs += order * np.logaddexp(np.log1p(-rate), np.log(rate) + (2 * points - 1) / (2 * noise**2))
    return float(np.logaddexp.reduce(logs) + np.log(points[1] - points[0])) / (order - 1)


def _converted(order: float, divergence: float, delta: float) -> float:
    """Return epsilon by Canonne, Kamath and Steinke, NeurIPS 2020, Proposition 12."""
    return divergence + np.log1p(-1 / order) - np.log(delta * order) / (order - 1)


def losses(dice: Dice) -> None:
    """Composition by privacy losses: Opacus's is an upper bound that is at most 0.01 above, Google's one by a grid of 0.0001."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    noise, rate, steps, delta = steps_of(dice)
    noise, rate, steps = noise + 1.5, rate / 4, 1 + steps // 2
    theirs = PLDAccountant(value_discretization_interval=1e-4)
    theirs.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), steps)
    close(spent_epsilon("prv", noise, rate, steps, delta), theirs.get_epsilon(delta) + 0.01, rtol=0, atol=0.004)


ORACLES: dict[str, Callable[[Dice], None]] = {"rules": rules, "spectral": spectral, "clustering": clustering, "accountant": accountant, "losses": losses}


SLOW = {"accountant": 10, "losses": 10}  # cases of oracles that take a second each


@pytest.mark.parametrize("oracle", ORACLES)
def test_an_oracle_agrees_in_the_first_cases(oracle):
    for case in range(SLOW.get(oracle, 50)):
        ORACLES[oracle](np.random.default_rng([case, 5]))


@pytest.mark.slow
@pytest.mark.parametrize("oracle", ORACLES)
def test_an_oracle_agrees_in_five_thousand_cases(oracle):
    for case in range(5000):
        ORACLES[oracle](np.random.default_rng([case, 6]))
