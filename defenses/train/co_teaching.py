"""Co-teaching: two networks teach each other the rows with small losses.

Shape letters: B rows of a batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.defense import stated
from poisonbench.core.errors import ConfigError
from poisonbench.core.keys import tensor_digest
from poisonbench.core.learner import Batch, ChangedObjective, Moment, Network, Objective, PlainStep, Plan
from poisonbench.core.rng import Key, seeded
from poisonbench.core.threat import POISON_RATE

PEER = "co_teaching_peer"
HIDDEN = "_co_teaching_hidden"  # the hook that leaves the peer out of kept states


@dataclass(frozen=True, kw_only=True)
class CoTeachingStep(PlainStep):
    """Train two networks; each learns from the rows of the batch on which the other has the smallest losses.

    Source: Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama, "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels", NeurIPS
    2018, Algorithm 1. After T epochs the share R(T) = 1 - min(T / ramp * rate, rate) of each batch is kept.

    The answers are those of the first network. The second has its own initial weights, and the same batches, augmentation and learning rates.

    Differences: layers of the second network are initialised as torch does by default (`reset_parameters`), also where the net has another rule;
    what is not trained, such as input statistics, is copied. The second network runs in float32.

    Args:
        expected_rate: share of wrong rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is oracle knowledge;
            with attack=none it is an assumption.
        ramp: epochs until the assumed share is left out, above 0 (paper: 10 of 200).
    """

    VERSION: ClassVar[int] = 1
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    ramp: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.expected_rate is not None and not 0 <= self.expected_rate < 1:
            raise ConfigError(f"defense.train.step.expected_rate={self.expected_rate}: a rate to expect lies in [0, 1)")
        if not 0 < self.ramp < math.inf:
            raise ConfigError(f"defense.train.step.ramp={self.ramp}: give a number of epochs above 0, such as 10")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Check that the second network can get weights of its own.

        Raises:
            ConfigError: no layer can be initialised again.
        """
        if not any(map(_fresh, module.modules())):
            raise ConfigError("defense=co_teaching needs a second network, and no layer of this net has reset_parameters; write it with layers of torch.nn")

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Attach the second network."""
        peer = copy.deepcopy(module)
        first = "/".join(tensor_digest(weight) for weight in module.parameters())
        with seeded(Key.root(0).child(f"co_teaching/{first}")):  # the first network's draws, which depend on the run's seed, give those of the second
            for layer in filter(_fresh, peer.modules()):
                layer.reset_parameters()  # type: ignore[operator]
        module.add_module(PEER, peer)
        setattr(module, HIDDEN, module.register_state_dict_post_hook(_without_peer))

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the objective of both networks on the rows that each selects for the other."""
        rate = stated(self.expected_rate, "defense.train.step.expected_rate")
        peer = moment.module.get_submodule(PEER)
        return Exchanged(inner=objective, peer=peer, share=1 - min(moment.epoch / self.ramp * rate, rate))

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Remove the second network."""
        getattr(module, HIDDEN).remove()
        delattr(module, HIDDEN)
        delattr(module, PEER)
        return {}


@dataclass(frozen=True, eq=False, kw_only=True)
class Exchanged(ChangedObjective):
    """The objective of two networks that select rows for each other.

    Args:
        inner: the objective of each network.
        peer: the second network.
        share: of the batch that each network selects, in (0, 1].
    """

    VERSION: ClassVar[int] = 1
    peer: nn.Module
    share: float

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses whose mean is the sum of both networks' mean losses on their selected rows."""
        first_B, second_B = (self.inner(net, batch, label_smoothing) for net in (network, self.peer))
        return exchanged(first_B, second_B, self.share)


def exchanged(first_B: Tensor, second_B: Tensor, share: float) -> Tensor:
    """Return (B,): the losses of each network on the rows that are smallest for the other, scaled so that their mean is that of the selected rows."""
    count = max(1, math.floor(share * len(first_B) + 1e-9))
    chosen_by_first, chosen_by_second = (_smallest(losses.detach(), count) for losses in (first_B, second_B))
    return (chosen_by_second * first_B + chosen_by_first * second_B) * (len(first_B) / count)


def _smallest(losses_B: Tensor, count: int) -> Tensor:
    mask_B = torch.zeros_like(losses_B)
    mask_B[losses_B.argsort(stable=True)[:count]] = 1.0
    return mask_B


def _fresh(layer: nn.Module) -> bool:
    """Whether a layer is trained and can be initialised again."""
    own = list(layer.parameters(recurse=False))
    return hasattr(layer, "reset_parameters") and bool(own) and all(weight.requires_grad for weight in own)


def _without_peer(module: nn.Module, state: dict[str, Tensor], prefix: str, local_metadata: object) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}{PEER}.")]:
        del state[name]
