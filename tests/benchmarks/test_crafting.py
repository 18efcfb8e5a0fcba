"""Both sides of the benchmark of crafting do the same work."""

import pytest
import torch

from attacks.targeted.gradient_matching import Match
from benchmarks import crafting
from benchmarks._options import Options
from poisonbench.core.rng import Key


def loop(**changed: object) -> crafting.PlainLoop:
    torch.default_generator.manual_seed(100)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    images = torch.randint(40, 200, (5, 1, 6, 6), generator=Key.root(0).torch()).float()
    parts = {"net": net, "images": images, "label": 2, "target": images[:1].flip(3), "steps": 5, "restarts": 2, "shift": 0.0, "flip": False}
    return crafting.PlainLoop(**(parts | changed))


def test_the_plain_loop_minimises_the_loss_of_the_attack():
    with torch.random.fork_rng():
        plain = loop()
    pull = Match(plain.net, plain.target, torch.tensor([2]), 0.0, torch.zeros(0)).pull(plain.images, torch.full((5,), 2))
    assert plain.loss(plain.images) == pytest.approx(pull.loss, abs=1e-5)


def test_the_plain_loop_stays_within_the_limit_and_gets_lower():
    with torch.random.fork_rng():
        plain = loop(steps=30)
    found = plain.best()
    assert 1 <= (found.float() - plain.images).abs().max() <= crafting.LIMIT
    assert plain.loss(found) < plain.loss(plain.images) - 0.01


@pytest.mark.slow
def test_crafting_is_measured_for_one_restart_and_for_several():
    one, several = crafting.measure(Options(), steps=12, restarts=2)
    assert ("restarts: 1," in one.work, "restarts: 2," in several.work) == (True, True)
    assert {"loss_ours", "loss_plain", "cpu_ratio"} <= one.facts.keys()
