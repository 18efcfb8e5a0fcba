import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.tasks.clients import Dirichlet, Iid, Shards, dealt


def rows(count: int = 1000, kinds: int = 10) -> Dataset:
    return Dataset.of(torch.zeros(count, 1), torch.arange(count) % kinds, num_classes=kinds)


@pytest.mark.parametrize("owners", [Iid(), Dirichlet(alpha=1.0), Shards(per_client=2)])
def test_every_row_has_a_client_and_a_seed_repeats_the_deal(owners):
    one, same, other = (dealt(owners, rows(), 7, Key.root(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert set(one.tolist()) == set(range(7))


def test_iid_shares_are_equal_and_mixed():
    owned, data = dealt(Iid(), rows(), 20, Key.root(0)), rows()
    assert torch.bincount(owned).tolist() == [50] * 20
    assert min(len(data.labels[owned == client].unique()) for client in range(20)) >= 8


def test_shards_hold_few_classes():
    owned, data = dealt(Shards(per_client=2), rows(), 10, Key.root(0)), rows()
    assert max(len(data.labels[owned == client].unique()) for client in range(10)) <= 4
    assert torch.bincount(owned).tolist() == [100] * 10


def test_a_small_alpha_makes_clients_differ_more():
    data = rows(5000)

    def spread(alpha: float) -> float:
        owned = Dirichlet(alpha=alpha).deal(data, 10, Key.root(0))
        table = torch.stack([torch.bincount(data.labels[owned == client], minlength=10) for client in range(10)]).double()
        return float(table.std(0).mean())

    assert spread(0.1) > 2 * spread(10.0)


def test_one_client_owns_all():
    assert dealt(Dirichlet(alpha=0.1), rows(), 1, Key.root(0)).unique().tolist() == [0]


def test_a_client_without_rows_and_numbers_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="gets none of the"):
        dealt(Iid(), rows(5, 5), 6, Key.root(0))
    with pytest.raises(ConfigError, match=r"task\.clients=0"):
        dealt(Iid(), rows(), 0, Key.root(0))
    with pytest.raises(ConfigError, match="alpha"):
        Dirichlet(alpha=0.0)
    with pytest.raises(ConfigError, match="per_client"):
        dealt(Shards(per_client=0), rows(), 2, Key.root(0))
