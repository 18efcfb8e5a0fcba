"""What a victim says of its linear model, against the scores that it gives."""

import pytest
import torch

from poisonbench.core.convex import linear_of, needed
from poisonbench.core.data import Dataset
from poisonbench.core.errors import Incompatible
from poisonbench.core.rng import Key
from poisonbench.learn.classical import Logistic, Svm
from poisonbench.runner.stages import Line

LOGISTIC = Logistic(C=0.5, iterations=1000)
LINEAR, RBF = (Svm(kernel=kernel, C=0.5, iterations=10000) for kernel in ("linear", "rbf"))


def numbers(kinds: int) -> Dataset:
    labels = torch.arange(60) % kinds
    values = torch.randn(60, 4, generator=Key.root(100).torch()) * torch.tensor([1.0, 100.0, 0.01, 0.0]) + labels[:, None]
    return Dataset.of(values, labels, num_classes=kinds)


@pytest.fixture
def honest(tiny, store):
    return Line(experiment=tiny(), store=store).honest


@pytest.mark.parametrize("learner", [LOGISTIC, LINEAR])
def test_a_linear_model_gives_the_scores_of_its_victim(honest, learner):
    data = numbers(2)
    victim = learner.fit(data, honest, Key.root(0))
    model, scores = needed(victim), victim.scores(data.inputs)
    own = model.scores(data.form.table(data.inputs).double())
    torch.testing.assert_close(own.float(), scores[:, 1] if learner is LOGISTIC else (scores[:, 1] - scores[:, 0]) / 2)
    assert model.C == 0.5


@pytest.mark.parametrize("learner", [LOGISTIC, LINEAR])
def test_a_victim_minimises_what_its_linear_model_says(honest, learner):
    data = numbers(2)
    model = needed(learner.fit(data, honest, Key.root(0)))
    table, signs = (data.form.table(data.inputs).double() - model.mean) / model.scale, 2.0 * data.labels.double() - 1

    def objective(parameters: torch.Tensor) -> torch.Tensor:
        penalty = parameters[:-1].square().sum() + model.bias_penalty * parameters[-1].square()
        return model.loss.value(signs * (table @ parameters[:-1] + parameters[-1])).sum() + penalty / (2 * model.C)

    found = torch.cat([model.weights, torch.tensor([model.bias], dtype=torch.float64)]).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(found), found)
    assert gradient.abs().max() < 0.01
    for place in range(len(found)):
        assert objective(found.detach()) <= objective(found.detach() + 0.05 * torch.eye(len(found), dtype=torch.float64)[place])


def test_other_victims_have_no_linear_model(honest):
    for learner, data in ((RBF, numbers(2)), (LOGISTIC, numbers(3)), (LOGISTIC, numbers(2).take(torch.arange(0, 60, 2)))):
        victim = learner.fit(data, honest, Key.root(0))
        assert linear_of(victim) is None
        with pytest.raises(Incompatible, match="two classes"):
            needed(victim)
