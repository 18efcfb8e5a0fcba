"""The slab, the sphere and the bound: against brute force in two dimensions, and against attacks."""

import math

import pytest
import torch

from defenses.feasible import FeasibleSet, Shape
from defenses.train.certified_trim import Bound, shortfall, still_there
from poisonbench.core.convex import LinearModel, LogisticLoss, SquaredHinge, signs
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.learn.classical import Logistic, Svm
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

SHAPE = Shape(sphere=0.9, slab=0.8, standardise=True)
LEARNERS = {"logistic": Logistic(C=1.0, iterations=10000), "svm": Svm(kernel="linear", C=1.0, iterations=10000)}
RECIPES = {"logistic": (LogisticLoss(), 0.0), "svm": (SquaredHinge(), 1.0)}


def plane(rows: int = 60, name: str = "rows") -> Dataset:
    labels = torch.arange(rows) % 2
    values = torch.randn(rows, 2, generator=Key.root(100).child(name).torch()) * torch.tensor([1.0, 30.0]) + labels[:, None] * torch.tensor([3.0, 40.0])
    return Dataset.of(values, labels, num_classes=2)


def bounded(kind: str, feasible: FeasibleSet, clean: Dataset, changes: int) -> Bound:
    loss, penalty = RECIPES[kind]
    none = torch.zeros(2, dtype=torch.float64)
    model = LinearModel(weights=none, bias=0.0, mean=none, scale=none + 1, loss=loss, C=1.0, bias_penalty=penalty)
    return Bound(feasible=feasible, model=model, points=feasible.points(clean), signs=signs(clean.labels), changes=changes)


def grid(feasible: FeasibleSet, label: int, side: int = 400) -> torch.Tensor:
    """Return the feasible points of a class on a fine grid, on the scale of the set."""
    steps = torch.linspace(-1, 1, side, dtype=torch.float64) * feasible.radii[label]
    points = torch.cartesian_prod(steps, steps) + feasible.centres[label]
    raw = Dataset.of((points * feasible.unit).float(), torch.full((len(points),), label), num_classes=2)
    return points[feasible.excess(raw) <= 1]


@pytest.fixture
def honest(tiny, store):
    return Line(experiment=tiny(), store=store).honest


def test_a_hand_worked_set():
    """Two classes of two rows each, on a line: the other row of a class is its centre without this one."""
    rows = Dataset.of(torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0], [14.0, 0.0]]), torch.tensor([0, 0, 1, 1]), num_classes=2)
    feasible = FeasibleSet.of(rows, Shape(sphere=1.0, slab=1.0, standardise=False), "trusted")
    assert feasible.centres.tolist() == [[1.0, 0.0], [12.0, 0.0]]
    assert feasible.axes.tolist() == [[1.0, 0.0], [-1.0, 0.0]]
    assert feasible.radii.tolist() == feasible.widths.tolist() == [2.0, 4.0]
    asked = Dataset.of(torch.tensor([[1.0, 2.0], [1.0, 3.0], [8.0, 0.0]]), torch.tensor([0, 0, 1]), num_classes=2)
    assert feasible.excess(asked).tolist() == [1.0, 1.5, 1.0]


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2, 2.0, 3.1, 4.4, 5.9])
@pytest.mark.parametrize("label", [0, 1])
def test_no_feasible_point_is_lower_than_the_lowest(angle, label):
    feasible = FeasibleSet.of(plane(), SHAPE, "trusted")
    slope = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    point, tried = feasible.lowest(slope, label), grid(feasible, label) @ slope
    raw = Dataset.of((point * feasible.unit).float()[None], torch.tensor([label]), num_classes=2)
    assert feasible.excess(raw) <= 1 + 1e-5
    assert point @ slope == pytest.approx(float(feasible.least(slope, label)))
    assert point @ slope <= tried.min() + 1e-9
    assert point @ slope > tried.min() - 0.03


@pytest.mark.parametrize("kind", RECIPES)
def test_the_smallest_bound_is_smallest_among_many_functions(kind):
    clean = plane()
    bound = bounded(kind, FeasibleSet.of(plane(name="trusted"), SHAPE, "trusted"), clean, 4)
    best, draws = bound.best(), Key.root(0).torch()
    near = best + 0.1 * torch.randn(300, 3, generator=draws, dtype=torch.float64)
    assert bound.value(best) < min(float(bound.value(theta)) for theta in near) + 1e-3
    assert bound.value(best) < 0.8 * bound.value(torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("count", [0, 3, 12])
def test_no_attack_inside_the_set_exceeds_the_bound(honest, kind, count):
    """Random points, corners of the set, and the candidate attack of the bound, each retrained by scikit-learn."""
    trusted, whole = plane(name="trusted"), plane()
    feasible = FeasibleSet.of(trusted, SHAPE, "trusted")
    clean = whole.take(feasible.excess(whole) <= 1)
    bound, learner, grids = bounded(kind, feasible, clean, count), LEARNERS[kind], [grid(feasible, label, 40) for label in (0, 1)]
    limit, draws = bound.least(), Key.root(1).numpy()

    def damage(points: torch.Tensor, labels: torch.Tensor) -> float:
        rows = torch.cat([clean.inputs, (points * feasible.unit).float()])
        model = learner.fit(Dataset.of(rows, torch.cat([clean.labels, labels]), num_classes=2), honest, Key.root(0)).linear_model()
        return float(model.loss.value(signs(clean.labels) * model.scores(clean.inputs.double())).mean())

    found = [damage(clean.inputs[:0].double(), clean.labels[:0])]
    for _ in range(20 if count else 0):
        labels = torch.from_numpy(draws.integers(0, 2, count))
        found.append(damage(torch.stack([grids[label][draws.integers(len(grids[label]))] for label in labels]), labels))
    for label in (0, 1) if count else ():
        for place in range(0, len(grids[label]), 100):
            found.append(damage(grids[label][place].expand(count, 2), torch.full((count,), label)))
    points, many = bound.attack()
    found.append(damage(points.repeat_interleave(many, 0), torch.tensor([0, 1]).repeat_interleave(many)))
    assert max(found) <= limit
    assert int(many.sum()) == count


@pytest.mark.parametrize("kind", RECIPES)
def test_the_candidate_attack_proves_that_the_bound_is_nearly_tight(kind):
    """Weak duality: the least objective with the candidate's rows among the clean ones is a lower bound on the bound."""
    clean = plane()
    bound = bounded(kind, FeasibleSet.of(plane(name="trusted"), SHAPE, "trusted"), clean, 3)
    points, many = bound.attack()

    def objective(theta: torch.Tensor) -> torch.Tensor:
        own = bound.model.loss.value(bound.signs * (bound.points @ theta[:-1] + theta[-1])).sum()
        added = (many * bound.model.loss.value(torch.tensor([-1.0, 1.0]) * (points @ theta[:-1] + theta[-1]))).sum()
        return (own + added + bound.penalty(theta)) / len(clean)

    theta = bound.best().requires_grad_()
    solver = torch.optim.LBFGS([theta], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value = objective(theta)
        value.backward()
        return value

    solver.step(closure)
    assert 0.9 * bound.least() < objective(theta.detach()) <= bound.least() + 1e-9


def test_the_penalty_bound_holds_for_every_poisoned_standardisation():
    feasible, clean, count = FeasibleSet.of(plane(name="trusted"), SHAPE, "trusted"), plane(), 6
    clean = clean.take(feasible.excess(clean) <= 1)
    bound, draws, grids = bounded("svm", feasible, clean, count), Key.root(2).numpy(), [grid(feasible, label, 40) for label in (0, 1)]
    for _ in range(100):
        theta, gone = torch.from_numpy(draws.normal(size=3)), draws.integers(0, count + 1)
        added = torch.stack([grids[label][draws.integers(len(grids[label]))] for label in draws.integers(0, 2, count)])
        rows = torch.cat([bound.points[gone:], added])
        bias = theta[-1] + theta[:-1] @ rows.mean(0)
        own = ((theta[:-1] * rows.std(0, correction=0)).square().sum() + bias.square()) / 2
        assert own <= bound.penalty(theta) + 1e-12


@pytest.mark.parametrize("learner", [("learner=logistic",), ("learner=svm", "learner.kernel=linear")])
def test_a_record_states_the_loss_beside_its_bound(tiny, store, learner):
    records = [
        run(tiny(f"attack={attack}", "task=breast_cancer", "threat=insertions_few", *learner, "defense=certified_trim", "task.trusted=0.2"), store)
        for attack in ("none", "bilevel")
    ]
    for facts in (record.facts for record in records):
        assert 0 < facts["clean_loss"] <= facts["loss_bound"]
        assert 0 < facts["clean_hinge"] <= facts["hinge_bound"]
    first, other = (record.facts["loss_bound"] for record in records)
    assert first == pytest.approx(other, rel=1e-3)  # it is about any attack, up to where the solver stops
    assert records[0].facts["clean_loss"] != records[1].facts["clean_loss"]


def test_a_victim_whose_solver_stopped_early_is_still_below_its_bound(tiny, store):
    """After one iteration the loss is above the bound for an exact minimiser; what is missing to the minimum is added."""
    words = ("attack=bilevel", "task=breast_cancer", "threat=insertions_few", "threat.budget.rate=0.005", "learner=logistic", "defense=certified_trim")
    early, late = (run(tiny(*words, "task.trusted=0.2", f"learner.iterations={steps}"), store).facts for steps in (1, 1000))
    assert late["loss_bound"] < early["clean_loss"] <= early["loss_bound"]


def test_of_equal_clean_rows_as_many_are_still_there_as_the_data_has():
    clean = Dataset.of(torch.zeros(3, 2), torch.tensor([0, 0, 1]), num_classes=2)
    changed = clean.edit(torch.tensor([0]), inputs=torch.ones(1, 2))
    assert still_there(clean, changed).tolist() == [True, False, True]
    assert still_there(clean, clean).all()


def test_the_shortfall_is_zero_at_the_minimum_and_exact_away_from_it():
    """A row at x = 1 and one at x = -1 of the other class: the objective is 2 log(1 + exp(-w)) + w^2 / 2, whose minimum is found on a grid."""
    rows, none = Dataset.of(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), num_classes=2), torch.zeros(1, dtype=torch.float64)
    at = lambda w: LinearModel(weights=none + w, bias=0.0, mean=none, scale=none + 1, loss=LogisticLoss(), C=1.0, bias_penalty=0.0)  # noqa: E731
    grid_ = torch.linspace(-3, 3, 600_001, dtype=torch.float64)
    objective = 2 * torch.nn.functional.softplus(-grid_) + grid_.square() / 2
    assert shortfall(at(float(grid_[objective.argmin()])), rows) < 1e-9
    assert shortfall(at(-1.0), rows) == pytest.approx(2 * math.log1p(math.e) + 0.5 - float(objective.min()), abs=1e-8)


def test_too_few_trusted_rows_are_refused():
    with pytest.raises(ConfigError, match=r"class 1 are measured on 1 trusted rows"):
        FeasibleSet.of(plane().take(torch.tensor([0, 1, 2])), SHAPE, "trusted")


@pytest.mark.parametrize("share", [{"sphere": 0.0}, {"slab": 1.1}])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ConfigError, match=r"\(0, 1\]"):
        Shape(**{"sphere": 0.9, "slab": 0.9, "standardise": True} | share)
