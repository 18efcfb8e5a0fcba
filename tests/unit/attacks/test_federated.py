import pytest
import torch

from attacks.federated.alie import Alie, largest_z
from attacks.federated.ipm import Ipm
from attacks.federated.min_max import MinMax, largest_gamma
from attacks.federated.model_replacement import ModelReplacement
from attacks.federated.sign_flip import SignFlip
from poisonbench.config.compose import tree_of
from poisonbench.core.attack import Round
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key


def round_of(updates: torch.Tensor, malicious: int, eta: float = 1.0, *, omniscient: bool = True) -> Round:
    mine = torch.arange(len(updates)) < malicious
    return Round(updates=updates, visible=torch.ones_like(mine) if omniscient else mine, malicious=mine, state=torch.zeros(updates.shape[1]), index=0, eta=eta)


def test_a_boosted_update_replaces_the_model_when_the_others_stand_still():
    updates = torch.zeros(10, 3)
    updates[:2] = torch.tensor([1.0, -2.0, 0.5])
    crafted = ModelReplacement(boost=None).craft(round_of(updates, 2, eta=0.5), Key.root(0))
    torch.testing.assert_close(0.5 * crafted.updates.mean(0), updates[0])  # the server's step
    assert crafted.facts == {"boost": 10.0}
    assert ModelReplacement(boost=3.0).craft(round_of(updates, 2), Key.root(0)).updates[0].tolist() == [3.0, -6.0, 1.5]


@pytest.mark.parametrize(("clients", "malicious", "z"), [(50, 10, 0.253), (20, 4, 0.157), (10, 2, 0.0), (50, 24, 1.426)])
def test_z_is_the_papers(clients, malicious, z):
    assert largest_z(clients, malicious) == pytest.approx(z, abs=1e-3)


def test_alie_sends_mean_less_z_deviations_of_what_it_sees():
    updates = torch.tensor([[9.0], [7.0], [1.0], [3.0]])
    own = Alie(z=2.0).craft(round_of(updates, 2, omniscient=False), Key.root(0))
    assert own.updates.flatten().tolist() == [6.0, 6.0, 1.0, 3.0]  # mean 8; deviation 1, which divided by n - 1 would be 1.41
    assert own.facts == {"z": 2.0}
    all_seen = Alie(z=2.0).craft(round_of(updates, 2), Key.root(0))
    assert all_seen.updates.flatten().tolist() == [0.0, 0.0, 1.0, 3.0]  # of the honest: mean 2, deviation 1
    alone = Alie(z=1.0).craft(round_of(updates, 1, omniscient=False), Key.root(0))
    assert alone.updates[0].tolist() == [9.0]  # one own update has no spread


def test_alie_sees_its_own_clients_alone_unless_the_threat_says_otherwise():
    assert not tree_of(["attack=alie"])["threat"]["omniscient"]
    assert tree_of(["attack=alie"])["threat"]["budget"]["clients"] == 0.2
    for word in ("threat=federated", "threat.omniscient=true"):
        assert tree_of(["attack=alie", word])["threat"]["omniscient"]


@pytest.mark.parametrize("name", ["ipm", "min_max"])
def test_the_papers_omniscient_attackers_see_all_updates(name):
    assert tree_of([f"attack={name}"])["threat"]["omniscient"]


def test_which_deviation_min_max_takes_does_not_matter():
    updates = torch.randn(6, 20, generator=Key.root(0).torch()).double()
    biased = -updates.std(0, correction=0)
    sent = MinMax(direction="std").craft(round_of(torch.cat([torch.zeros(1, 20).double(), updates]), 1), Key.root(0)).updates[0]
    torch.testing.assert_close(sent, updates.mean(0) + largest_gamma(updates, biased) * biased)


def test_ipm_and_sign_flip_as_by_hand():
    updates = torch.tensor([[9.0], [1.0], [2.0], [3.0]])
    assert Ipm(epsilon=0.5).craft(round_of(updates, 1), Key.root(0)).updates[0].tolist() == [-1.0]
    assert SignFlip(factor=2.0).craft(round_of(updates, 1), Key.root(0)).updates[0].tolist() == [-18.0]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("direction", ["std", "sign", "unit"])
def test_gamma_equals_bisection(seed, direction):
    updates = torch.randn(6, 20, generator=Key.root(seed).torch()).double() + 0.3
    mean = updates.mean(0)
    towards = {"std": -updates.std(0), "sign": -mean.sign(), "unit": -mean / mean.norm()}[direction]
    diameter = torch.cdist(updates, updates).max()
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        fits = (mean + middle * towards - updates).norm(dim=1).max() <= diameter
        low, high = (middle, high) if fits else (low, middle)
    assert largest_gamma(updates, towards) == pytest.approx(low, rel=1e-6)
    round_ = round_of(torch.cat([torch.zeros(1, 20).double(), updates]), 1)
    sent = MinMax(direction=direction).craft(round_, Key.root(0)).updates[0]
    assert (sent - updates).norm(dim=1).max() == pytest.approx(float(diameter), rel=1e-6)


def test_min_max_stays_where_there_is_no_direction():
    assert largest_gamma(torch.ones(3, 4), torch.zeros(4)) == 0.0


def test_factors_that_mean_nothing_are_refused():
    for make in (lambda: ModelReplacement(boost=0.0), lambda: Alie(z=-1.0), lambda: Ipm(epsilon=0.0), lambda: SignFlip(factor=0.0)):
        with pytest.raises(ConfigError, match=r"attack\.update"):
            make()
