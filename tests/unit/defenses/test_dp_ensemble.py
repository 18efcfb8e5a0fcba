"""What privacy proves about poison: divergences against Opacus and closed forms, bounds against the best event there is."""

import random
from functools import reduce

import numpy as np
import pytest
import torch
from scipy import stats

from defenses.certify import dp_ensemble
from defenses.certify.dp_ensemble import MOVES, ORDERS, Mechanism, divergences, least_mean
from defenses.train.dp_sgd import composed, spent_epsilon
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.runner.pipeline import Line, run
from tests.unit.defenses.brute import Told

WORDS = ("defense=dp_ensemble", "defense.train.members=3", "defense.train.step.epsilon=0.5", "defense.certify.alpha=0.2", "learner.epochs=1")


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.02), (5.0, 0.017), (2.0, 0.5), (0.7, 0.01)])
def test_divergences_of_one_row_are_those_of_opacus(noise, rate):
    from opacus.accountants.analysis.rdp import compute_rdp

    thin, thick = divergences(noise, rate, 1)
    np.testing.assert_allclose(thick, compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=list(ORDERS)), rtol=1e-6)
    assert (thin <= thick + 1e-9).all()


@pytest.mark.parametrize("rows", [1, 3])
def test_divergences_of_full_batches_are_those_of_two_gaussians(rows):
    for told in divergences(2.0, 1.0, rows):
        np.testing.assert_allclose(told, ORDERS * rows**2 / (2 * 2.0**2), rtol=1e-9)


def events(dice: random.Random) -> tuple[Mechanism, int, float]:
    noise, rate = dice.choice((0.6, 1.0, 3.0)), dice.choice((0.01, 0.1, 0.5, 1.0))
    return Mechanism(noise=noise, rate=rate, steps=1), dice.randint(1, 6), dice.choice((0.02, 0.3, 0.5, 0.8, 0.95, 0.999))


def below(edge: float, noise: float, weights: np.ndarray, sign: int) -> float:
    """How likely a mixture of Gaussians around 0, sign, 2 sign, ... lies below an edge."""
    return float((weights * stats.norm.cdf((edge - sign * np.arange(len(weights))) / noise)).sum())


@pytest.mark.parametrize("change", sorted(MOVES))
def test_no_event_of_one_step_falls_below_the_floor(change):
    """Likelihood ratios are monotone here, so the worst event of its size is a threshold."""
    dice = random.Random(0)
    for _ in range(125):
        training, rows, asked = events(dice)
        group = stats.binom.pmf(np.arange(rows + 1), rows, training.rate)
        alone = np.array([1.0])
        before, after, way = {
            "insert": (alone, group, (1, 1)),
            "delete": (group, alone, (-1, -1)),  # mirrored, so that deletion raises what the event needs low
            "flip": (group, group, (-1, 1)),
            "edit": (group, group, (-1, 1)),
        }[change]
        low, high = -60.0, 60.0
        for _ in range(60):
            edge = (low + high) / 2
            low, high = (edge, high) if below(edge, training.noise, before, way[0]) < asked else (low, edge)
        there = np.array([below(edge, training.noise, before, way[0])])
        left = below(edge, training.noise, after, way[1])
        assert training.floor(there, rows, change)[0] <= left + 1e-9, (training, rows, asked)
        assert training.ceiling(1 - there, rows, change)[0] >= 1 - left - 1e-9


def transcripts(noise: float, rate: float, steps: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """How likely each outcome of all steps is without and with `rows` rows that add 1 each time they are drawn.

    A step shows in which of 24 intervals its noised sum lies. That tells no more than the sum itself, and can be enumerated.
    """
    edges = np.concatenate([[-np.inf], np.linspace(-3 * noise, rows + 3 * noise, 23), [np.inf]])
    thin = np.diff(stats.norm.cdf(edges / noise))
    thick = sum(chance * np.diff(stats.norm.cdf((edges - drawn) / noise)) for drawn, chance in enumerate(stats.binom.pmf(range(rows + 1), rows, rate)))
    one, other = (reduce(np.multiply.outer, [single] * steps).ravel() for single in (thin, thick))
    return one, other


def most_below(training: Mechanism, change: str, outcomes: tuple[np.ndarray, np.ndarray], rows: int) -> float:
    """By how much the floor lies above what is left of the worst events of each size, those that the change makes rarest; below 0 if it holds."""
    before, after = outcomes if change == "insert" else outcomes[::-1]
    order = np.argsort(after / before)
    there, left = before[order].cumsum(), after[order].cumsum()
    some = np.unique(np.searchsorted(there, np.linspace(0.01, 0.999, 200)).clip(0, len(there) - 1))
    return float((training.floor(there[some], rows, change) - left[some]).max())


SAMPLED = [(1.0, 0.5, 4, 1), (1.0, 0.2, 4, 1), (0.7, 0.3, 4, 2), (2.0, 0.5, 3, 3)]


@pytest.mark.parametrize("change", ["insert", "delete"])
@pytest.mark.parametrize("setting", SAMPLED, ids=str)
def test_no_event_of_several_sampled_steps_falls_below_the_floor(setting, change):
    noise, rate, steps, rows = setting
    outcomes = transcripts(*setting)
    assert most_below(Mechanism(noise=noise, rate=rate, steps=steps), change, outcomes, rows) <= 1e-9
    wrong = {"a step forgotten": (noise, rate, steps // 2), "the rate twice": (noise, rate**2, steps), "noise of the mean": (noise / rate, rate, steps)}
    for name, (spread, chance, count) in wrong.items():
        assert most_below(Mechanism(noise=spread, rate=chance, steps=count), change, outcomes, rows) > 0.01, name


def surplus(epsilon: float, outcomes: tuple[np.ndarray, np.ndarray]) -> float:
    """The delta that an epsilon needs for these outcomes."""
    thin, thick = outcomes
    return float(max(np.maximum(one - np.exp(epsilon) * other, 0).sum() for one, other in ((thin, thick), (thick, thin))))


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize("delta", [1e-2, 1e-4])
def test_epsilon_covers_every_event_of_several_sampled_steps(accountant, delta):
    outcomes = transcripts(1.0, 0.2, 4, 1)
    assert surplus(spent_epsilon(accountant, 1.0, 0.2, 4, delta), outcomes) <= delta
    assert surplus(spent_epsilon(accountant, 1.0, 0.2, 1, delta), outcomes) > delta, "one step for four"
    assert surplus(spent_epsilon(accountant, 1.0, 0.2**2, 4, delta), outcomes) > delta, "the rate counted twice"


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_the_epsilon_of_many_members_covers_what_all_of_them_show(accountant):
    """Four members of one step each show four sums of the same rows; the epsilon of one of them does not cover that."""
    delta, outcomes = 1e-3, transcripts(1.0, 0.2, 4, 1)
    one = {"epsilon": spent_epsilon(accountant, 1.0, 0.2, 1, delta), "noise_multiplier": 1.0, "sampling_rate": 0.2, "steps": 1, "delta": delta}
    told = composed({**one, "accountant": accountant}, 4)
    assert surplus(told["epsilon"], outcomes) <= delta
    assert surplus(told["epsilon_of_one_member"], outcomes) > delta


def test_a_record_has_the_epsilon_of_all_members_and_that_of_one(tiny, store):
    facts = run(tiny(*WORDS, "learner.epochs=2"), store).facts
    one, three = (spent_epsilon("rdp", facts["noise_multiplier"], facts["sampling_rate"], trainings * facts["steps"], facts["delta"]) for trainings in (1, 3))
    assert facts["epsilon_of_one_member"] == pytest.approx(one)
    assert facts["epsilon_of_one_member"] <= 0.5
    assert facts["epsilon"] == pytest.approx(three)
    assert facts["epsilon"] > 1.2 * facts["epsilon_of_one_member"]


def test_members_that_do_not_say_how_they_were_noised_have_no_epsilon_of_all():
    assert composed({"epsilon": 1.0, "epochs": 3}, 5) == {"epochs": 3}


def test_many_steps_of_full_batches_come_close_to_the_exact_bound():
    training, chances = Mechanism(noise=40.0, rate=1.0, steps=64), np.array([0.7, 0.9, 0.99])
    exact = stats.norm.cdf(stats.norm.ppf(chances) - 2 * np.sqrt(64) / 40.0)
    floor = training.floor(chances, 2, "insert")
    assert (floor <= exact).all()
    np.testing.assert_allclose(floor, exact, atol=0.1)


def test_a_group_at_once_is_no_worse_than_rows_one_by_one_and_far_better_than_powers_of_e():
    training, chances = Mechanism(noise=5.0, rate=0.02, steps=300), np.array([0.9])
    chained = chances
    for _ in range(5):
        chained = training.floor(chained, 1, "insert")
    at_once = training.floor(chances, 5, "insert")[0]
    assert at_once >= chained[0]
    epsilon = spent_epsilon("rdp", 5.0, 0.02, 300, 1e-5)
    assert at_once > 2 * 0.9 * np.exp(-5 * epsilon)


@pytest.mark.parametrize("shape", [(9.0, 1.0), (90.0, 10.0), (0.5, 0.5)])
def test_the_bound_of_a_mean_holds_as_often_as_it_says(shape):
    dice, mean = np.random.default_rng(0), shape[0] / sum(shape)
    bounds = [least_mean(dice.beta(*shape, size=30), 0.1) for _ in range(400)]
    assert np.mean([bound > mean for bound in bounds]) <= 0.1
    assert 0.5 * mean < np.mean(bounds) < mean


def test_certificates_of_private_trainings_reach_the_record(tiny, store):
    record = run(tiny(*WORDS), store)
    assert record.status == "done"
    assert record.facts["public_rows"] == record.counts["train"]
    assert record.facts["adjacency"] == "add or remove one row"
    assert record.metrics["radius_unit"] == "inserted rows, each one step of add or remove one row"
    together = [record.metrics["collective"][radius] for radius in sorted(record.metrics["collective"], key=int)]
    assert together == sorted(together, reverse=True)
    assert 0 < together[0] < 1


def test_radii_are_the_last_that_hold():
    votes = torch.tensor([[100, 0, 0], [0, 90, 10], [60, 30, 10], [40, 40, 20]])
    training, certificate = Mechanism(noise=5.0, rate=0.02, steps=300), dp_ensemble.DpCertificate(alpha=0.01, change="insert", radii=())
    radii = certificate.proved(votes, training).tolist()
    assert radii == sorted(radii, reverse=True), "more votes prove no less"
    assert radii[0] > radii[1] > 0
    assert radii[3] == -1
    first, second = dp_ensemble.bounds(votes.numpy(), 0.01)
    for row, radius in enumerate(radii[:2]):
        holds = [training.floor(first, rows, "insert")[row] > training.ceiling(second, rows, "insert")[row] for rows in (radius, radius + 1)]
        assert holds == [True, False]
    fewer = dp_ensemble.DpCertificate(alpha=0.01, change="edit", radii=()).proved(votes, training)
    assert 0 < int(fewer[0]) < radii[0]


def test_members_differ_by_their_randomness_alone(tiny, store):
    experiment = tiny(*WORDS)
    line = Line(experiment=experiment, store=store)
    victim = line.fit(line.defended, experiment.task.train, line.combine(experiment.defense.aggregate), label="defended")
    assert len(victim.members) == 3
    one, other = (victim.members[place].state() for place in (0, 1))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_certificate_refuses_members_that_are_not_private(tiny, store):
    experiment = tiny("defense=dpa", "defense.train.parts=5")
    line = Line(experiment=experiment, store=store)
    victim = line.fit(line.defended, experiment.task.train, line.combine(experiment.defense.aggregate), label="defended")
    with pytest.raises(ConfigError, match="dp_ensemble"):
        dp_ensemble.DpCertificate(alpha=0.1, change="insert", radii=()).certify(victim, experiment.task.test)


@pytest.mark.parametrize("words", [("defense.train.members=0",), ("defense.certify.alpha=0",), ("defense.certify.radii=[-1]",)])
def test_numbers_that_mean_nothing_are_refused(tiny, words):
    with pytest.raises(ConfigError):
        tiny("defense=dp_ensemble", *words)


FACTS = {"noise_multiplier": 5.0, "sampling_rate": 0.02, "epochs": 6, "public_rows": 1000}


def test_the_training_is_read_from_the_facts():
    assert dp_ensemble.mechanism(Told([[1, 0]], FACTS)) == Mechanism(noise=5.0, rate=0.02, steps=300)
    for name in FACTS:
        with pytest.raises(ConfigError, match=r"certificate of defense=dp_ensemble"):
            dp_ensemble.mechanism(Told([[1, 0]], {key: value for key, value in FACTS.items() if key != name}))


def test_only_right_answers_are_proved_and_the_accuracy_is_that_of_single_members():
    votes, labels = [[0, 100, 0], [100, 0, 0], [60, 40, 0]], (1, 1, 0)
    test = Dataset.of(torch.zeros(3, 1), torch.tensor(labels), num_classes=3)
    certificate = dp_ensemble.DpCertificate(alpha=0.01, change="insert", radii=(0, 2))
    victim = Told(votes, FACTS)
    proved = certificate.proved(torch.tensor(votes), dp_ensemble.mechanism(victim)).tolist()
    assert certificate.certify(victim, test).tolist() == [proved[0], -1, proved[2]]
    assert proved[0] > 0
    # the first 60 members are right on two rows of three, the others on one
    accuracy = least_mean(np.array([2 / 3] * 60 + [1 / 3] * 40), 0.01)
    left = dp_ensemble.mechanism(victim).floor(np.array(accuracy), 2, "insert")
    assert certificate.together(victim, test) == {0: pytest.approx(accuracy), 2: pytest.approx(float(left))}


@pytest.mark.parametrize("alpha", [0.001, 0.1])
def test_the_bound_of_a_mean_is_that_of_a_gambler_written_out(alpha):
    values = np.random.default_rng(3).beta(6, 2, size=25)
    first = None
    for step in range(4001):
        mean, capital, most, seen, spread = step / 4000, 1.0, 1.0, 0.5, 0.25
        for number, value in enumerate(values, start=1):
            stake = min(np.sqrt(2 * np.log(1 / alpha) * number / (spread * len(values))), 0.9 / mean if mean else np.inf)
            capital *= 1 + stake * (value - mean)
            most = max(most, capital)
            seen += value
            spread += (value - seen / (number + 1)) ** 2
        if most < 1 / alpha:
            first = step
            break
    assert least_mean(values, alpha) == pytest.approx((first - 1) / 4000)
    assert least_mean(np.zeros(5), alpha) == 0.0
