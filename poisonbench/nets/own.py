"""Somebody's own network, as it is."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor, nn

from poisonbench.core.errors import ConfigError
from poisonbench.core.keys import key
from poisonbench.core.rng import Key, seeded
from poisonbench.nets.net import FeatureNet


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnNet:
    """An `nn.Module`, or a function that makes one.

    A module starts every training from the weights it holds; a function is called with the seed of the run, so every
    seed has its own initialisation. Inputs arrive standardised. Features are what the last `nn.Linear` is given,
    and that layer is the head. Its identity in store and record is its printed form, its source where that can
    be read, and its weights under a fixed seed.

    Args:
        make: the module, or the function.
    """

    VERSION: ClassVar[int] = 1
    make: nn.Module | Callable[[], nn.Module]

    def build(self, shape: tuple[int, ...], num_classes: int) -> FeatureNet:
        """Return a fresh module.

        Raises:
            ConfigError: a network without a linear layer, or with another number of outputs.
        """
        module = copy.deepcopy(self.make) if isinstance(self.make, nn.Module) else self.make()
        return _Split(module, num_classes)

    @cached_property
    def content(self) -> str:
        """What this network contributes to a key."""
        with seeded(Key.root(0)):
            module = self.make if isinstance(self.make, nn.Module) else self.make()
        try:
            source = inspect.getsource(type(module))
        except (OSError, TypeError):
            source = ""
        return key(repr(module), source, dict(module.state_dict()))


class _Split(FeatureNet):
    def __init__(self, module: nn.Module, num_classes: int) -> None:
        super().__init__()
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise ConfigError("your network has no nn.Linear; its last one is the head that scores the classes")
        if layers[-1].out_features != num_classes:
            raise ConfigError(f"your network scores {layers[-1].out_features} classes, the task has {num_classes}")
        self.module = module
        self._last = [layers[-1]]  # in a list, so that it is not registered twice

    def features(self, inputs: Tensor) -> Tensor:
        """Return what the last linear layer is given."""
        seen: list[Tensor] = []
        hook = self._last[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.module(inputs)
        finally:
            hook.remove()
        return seen[-1].flatten(1)

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores."""
        scores: Tensor = self._last[0](features)
        return scores

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's own answer."""
        scores: Tensor = self.module(inputs)
        return scores
