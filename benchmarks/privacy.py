"""Private training: our DP-SGD against a loop written with Opacus's PrivacyEngine, with the same network, batch and noise.

The noise multiplier and the epsilon are computed before the timing starts (in ours by the warm-up): this work is the same on both sides.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator

import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._options import Options
from benchmarks._setting import empty_rows, made_up, setting
from benchmarks._timing import in_turns
from poisonbench.core.learner import Plan
from poisonbench.core.rng import Key, seeded
from poisonbench.nets.net import FeatureNet
from poisonbench.nets.small import MLP, SmallCNN
from poisonbench.report.benchmarks import Comparison

BATCH, BOUND, DELTA, EPSILON = 256, 1.0, 1e-5, 3.0


def nets(side: int) -> dict[str, tuple[str, FeatureNet]]:
    """Return for each network its name, the words that choose it, and an instance for grey pictures of `side`."""
    with seeded(Key.root(100)):
        mlp = MLP(widths=(128,), norm="none").build(empty_rows((1, side, side), 10)).net
        cnn = SmallCNN(widths=(64, 128, 256), depths=(1, 1, 1), pool="max", norm="group").build(empty_rows((1, side, side), 10)).net
    return {f"MLP {side * side}-128-10": ("net=mlp", mlp), f"CNN of 64, 128, 256 channels on {side}x{side}": ("net=small", cnn)}


def measure(options: Options, *, rows: int = 8 * BATCH, sides: tuple[int, ...] = (8, 28), repeats: int = 5) -> Iterator[Comparison]:
    """Yield one comparison for each network and size of made-up grey pictures: one epoch of Poisson samples of `BATCH` rows on average."""
    private = importlib.import_module("defenses.train.dp_sgd")
    step = private.PrivateStep(epsilon=EPSILON, delta=DELTA, max_grad_norm=BOUND, accountant="rdp", sampling="poisson")
    for side in sides:
        made = made_up(rows, (1, side, side))
        for name, (word, net) in nets(side).items():
            ours = setting(word, "net.norm=group" if word == "net=small" else "net.norm=none", "learner.epochs=1", f"learner.batch_size={BATCH}", data=made)
            learner = ours.learner.with_step(step)
            noise = step.noise(Plan(rows=rows, epochs=1, steps=-(-rows // BATCH), shape=(1, side, side)))
            costs = in_turns(
                lambda learner=learner, ours=ours: learner.fit(ours.data, ours.combine, Key.root(100)),  # type: ignore[misc]
                lambda net=net, noise=noise, made=made: train_private(net, *made, noise=noise),  # type: ignore[misc]
                repeats=repeats,
            )
            yield Comparison(
                work=f"DP-SGD, {name}, batch {BATCH}, one epoch over {rows} rows, noise {noise:.2f} given",
                ours="defense=dp_sgd",
                alternative="Opacus's PrivacyEngine.make_private, hooks",
                unit="s",
                ours_cost=costs.ours,
                alternative_cost=costs.alternative,
                facts=costs.cpu,
            )


def train_private(net: nn.Module, inputs: Tensor, labels: Tensor, *, noise: float) -> PrivacyEngine:
    """Train for one epoch as in the tutorials of Opacus, and return the engine, which holds the epsilon spent.

    Args:
        net: from standardised pixels to scores; it is trained in place.
        inputs: (N, C, H, W) uint8.
        labels: (N,) int64.
        noise: multiplier of the clipping bound.
    """
    rows, net = TensorDataset(inputs.float() / 127.5 - 1, labels), net.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns that its draws are not secret, and torch that pixels need no gradient
        engine, optimizer = PrivacyEngine(accountant="rdp"), torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
        model, optimizer, loader = engine.make_private(
            module=net, optimizer=optimizer, data_loader=DataLoader(rows, batch_size=BATCH), noise_multiplier=noise, max_grad_norm=BOUND
        )
        for batch, answers in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(batch), answers).backward()
            optimizer.step()
        model.cleanup()
    return engine
