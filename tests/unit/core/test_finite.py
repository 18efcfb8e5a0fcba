import pytest
import torch

from poisonbench.core.errors import Diverged
from poisonbench.core.finite import finite, finite_state


def test_finite_values_pass_as_they_are():
    for values in (torch.randn(3), torch.arange(3), torch.tensor([True]), torch.zeros(0), torch.tensor(3.0e38)):
        assert finite(values, "values") is values


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_placed(value):
    values = torch.zeros(2, 3)
    values[1, 2] = value
    with pytest.raises(Diverged, match=r"scores of x: 1 of 6 values are not finite, the first at \[1, 2\]"):
        finite(values, "scores of x")


def test_a_state_names_its_tensor():
    state = {"steps": torch.tensor(3), "weight": torch.ones(2), "bias": torch.tensor([0.0, torch.inf])}
    with pytest.raises(Diverged, match="the victim, tensor bias: 1 of 2 values"):
        finite_state(state, "the victim")
    finite_state({name: state[name] for name in ("steps", "weight")}, "the victim")
