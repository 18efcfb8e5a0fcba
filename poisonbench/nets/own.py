"""A user's own network, without changes.

Shape letters: M rows, D features, K classes.
"""

from __future__ import annotations

import copy
import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.identity import identity
from poisonbench.core.keys import key
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.reals import NUMBERS
from poisonbench.nets.net import FeatureNet, NormalizedNet, standardised

TRIED = 4  # rows of the batch that a network is tested on


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnNet:
    """An `nn.Module`, or a function that makes one.

    Every training of a module starts from its present weights. A function is called with the run's seed as torch's seed, so every seed
    has its own initialisation. Inputs are standardised. The head is the last `nn.Linear` that is called and returns (M, K);
    features are its inputs. A network without one can be trained and attacked, but defenses that need features refuse it.

    Its identity in store and record (`content`) covers all that decides its output: code, attributes, weights under a fixed seed, and its
    answers to a fixed batch in training and in evaluation. Where a part cannot be inspected, no result is shared between runs, and a
    warning names the part. Networks with the same `name` count as the same.

    Args:
        make: the module, or the function.
        shape: shape of one input, such as (3, 32, 32).
        num_classes: K.
        name: replaces code and attributes in the identity; None inspects them. Weights and answers count either way.

    Raises:
        ConfigError: a network that fails, or that returns anything but (M, K) scores.
    """

    VERSION: ClassVar[int] = 2
    READS: ClassVar[frozenset[str]] = NUMBERS
    make: nn.Module | Callable[[], nn.Module]
    shape: tuple[int, ...]
    num_classes: int
    name: str | None = None

    def __post_init__(self) -> None:
        """Test the network once, before anything is computed."""
        if not isinstance(self.make, nn.Module) and not callable(self.make):
            raise ConfigError(f"net={self.make!r}: give an nn.Module, or a function that makes one")
        _ = self.content

    def build(self, like: Dataset) -> NormalizedNet:
        """Return a fresh module.

        Raises:
            ConfigError: a network that fails on inputs of this shape, or returns anything but scores.
        """
        return standardised(_Split(self._made(), tuple(like.inputs.shape[1:]), like.num_classes), like)

    def _made(self) -> nn.Module:
        module = copy.deepcopy(self.make) if isinstance(self.make, nn.Module) else self.make()
        if not isinstance(module, nn.Module):
            raise ConfigError(f"net: your function returns {type(module).__name__}, not an nn.Module")
        return module

    @cached_property
    def content(self) -> str:
        """What this network contributes to a key."""
        with seeded(Key.root(0)):
            split = _Split(self._made(), self.shape, self.num_classes)
        return key(self._code(), dict(split.module.state_dict()), split.tried(training=False), split.tried(training=True))

    def _code(self) -> str:
        if self.name is not None:
            return f"named {self.name}"
        digest, unknown = identity(self.make)
        if unknown:
            reason = f"your network contains {', '.join(unknown)}, which a key cannot cover, so no run reuses what another one trained"
            warnings.warn(f"{reason}; name the network yourself with net_name=TEXT", stacklevel=2)
        return digest + (secrets.token_hex(16) if unknown else "")


class _Split(FeatureNet):
    def __init__(self, module: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.module, self.shape, self.num_classes = module, shape, num_classes
        if any(nn.parameter.is_lazy(weight) for weight in [*module.parameters(), *module.buffers()]):
            self._answers(module, training=False)  # lazy layers get their widths
        self._last = self._heads()  # in a list, so that it is not registered twice

    @property
    def stackable(self) -> bool:
        """Return false: its forward pass may mix the members of a stack."""
        return False

    @property
    def alone(self) -> bool:
        """Return whether a batch of one row can be trained on."""
        try:
            self.tried(training=True, rows=1)
        except ConfigError:
            return False
        return True

    @property
    def drifts(self) -> bool:
        """Return whether training changes anything but the weights, such as running statistics."""
        before, after = list(self.module.buffers()), self.tried(training=True)[1:]
        return super().drifts or any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))

    def tried(self, *, training: bool, rows: int = TRIED) -> list[Tensor]:
        """Return the (rows, K) answers to a fixed batch and the buffers after it; the module itself does not change.

        Raises:
            ConfigError: a failure, or answers of a wrong form.
        """
        module = copy.deepcopy(self.module)
        return [self._answers(module, training=training, rows=rows), *module.buffers()]

    def _answers(self, module: nn.Module, *, training: bool, rows: int = TRIED) -> Tensor:
        inputs = torch.randn(rows, *self.shape, generator=Key.root(0).torch())
        mode, modes = "in training" if training else "in evaluation", {layer: layer.training for layer in module.modules()}
        with torch.no_grad(), seeded(Key.root(0)):
            try:
                scores = module.train(training)(inputs)
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                raise ConfigError(f"your network fails {mode} on a batch of the shape {tuple(inputs.shape)}: {type(error).__name__}: {reason}") from error
            finally:
                for layer, was in modes.items():
                    layer.training = was
        if not isinstance(scores, Tensor):
            raise ConfigError(f"your network returns a {type(scores).__name__} {mode}; return only the scores, one tensor of the shape (rows, classes)")
        if scores.ndim != 2 or len(scores) != rows:
            raise ConfigError(f"your network returns the shape {tuple(scores.shape)} {mode} for {rows} rows; return (rows, classes)")
        if scores.shape[1] != self.num_classes:
            raise ConfigError(f"your network scores {scores.shape[1]} classes, the task has {self.num_classes}")
        if not scores.is_floating_point():
            raise ConfigError(f"your network returns {scores.dtype} {mode}; return scores, not classes")
        return scores

    def _heads(self) -> list[nn.Linear]:
        """Return a list of the last linear layer that is called in evaluation and returns the scores; empty if there is none."""
        module, given = copy.deepcopy(self.module), list[tuple[str, Tensor]]()
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda _, seen, answer, name=name: given.append((name, answer)) if seen[0].ndim == 2 else None)
        scores = self._answers(module, training=False)
        fit = [(name, answer) for name, answer in given if answer.shape == scores.shape]
        last = ([name for name, answer in fit if torch.equal(answer, scores)] or [name for name, _ in fit])[-1:]
        return [layer for name, layer in self.module.named_modules() if name in last and isinstance(layer, nn.Linear)]

    def features(self, inputs: Tensor) -> Tensor:
        """Return the inputs of the head.

        Raises:
            Incompatible: a network without a head.
        """
        seen: list[Tensor] = []
        hook = self._head().register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.module(inputs)
        finally:
            hook.remove()
        return seen[-1]

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores."""
        scores: Tensor = self._head()(features)
        return scores

    def silence(self, channels_D: Tensor) -> None:
        """Refuse: the layer that a feature comes from is unknown.

        Raises:
            Incompatible: always.
        """
        raise Incompatible("the features of your own network cannot be switched off permanently, as pruning does; choose net=NAME or another defense")

    def _head(self) -> nn.Linear:
        if not self._last:
            raise Incompatible("no nn.Linear of your network gives the scores, so it has no features; choose an attack and a defense that need only scores")
        return self._last[0]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's own answer."""
        scores: Tensor = self.module(inputs)
        return scores
