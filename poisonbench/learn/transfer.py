"""Transfer learning: an extractor fitted on public rows, frozen, and a new linear head.

Shape letters: N rows, M test rows, D features, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from poisonbench.core.combine import honest
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.form import Column, Form
from poisonbench.core.learner import Combine, Differentiable, Fitted, State, Step, Trained, Victim, Worded, fit_each, score_each
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.learn.central import Central, NetVictim


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Train a linear head on the features of a frozen extractor.

    Source: the transfer setting of Schwarzschild, Goldblum, Gupta, Dickerson, Goldstein, "Just How Toxic Is Data
    Poisoning?", ICML 2021. There the extractor comes from another data set; here it is fitted on `task.public`, rows of
    the same kind that cannot be poisoned and are used for nothing else. Features are computed once, without augmentation, so
    that heads are cheap.

    Args:
        extractor: recipe of the extractor.
        head: recipe of the head; its network receives features in place of pixels.
        fitted: the extractor's state, once it is fitted.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "each row alone"  # features, by an extractor that is fitted on public rows
    NAMED: ClassVar[str] = "learner=transfer"
    extractor: Central
    head: Central
    fitted: State = field(default_factory=dict)

    @property
    def READS(self) -> frozenset[str] | None:
        """The forms that the extractor's network can read, None for any; the head reads features."""
        return getattr(self.extractor.net, "READS", None)

    @property
    def stages(self) -> frozenset[str]:
        """All slots of a central training except that of an attacker who runs the training."""
        return self.head.stages - {"attack.train"}

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions."""
        return self.head.runtime

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return this recipe with its extractor fitted on the public rows, and a head that has their features.

        Raises:
            ConfigError: there are no public rows.
        """
        if len(public) == 0:
            raise ConfigError(f"{self.NAMED} fits its extractor on public rows; set task.public to a share above 0, such as 0.5")
        if fit is None:
            return dataclasses.replace(self, head=self.head.with_public(public, fit))
        fitted = dict(fit(self.extractor, self.read(public)).state())
        head = self.head
        if head.steps:
            head = head.with_public(self.featured(self.extractor.restore(Trained(state=fitted, facts={}), self.read(public), honest(public)), public), fit)
        return dataclasses.replace(self, fitted=fitted, head=head)

    def read(self, data: Dataset) -> Dataset:
        """Return rows as the extractor reads them."""
        return data

    def featured(self, extractor: NetVictim, data: Dataset) -> Dataset:
        """Return rows as the head reads them: with the features (N, D) of a fitted extractor."""
        return self.with_features(data, extractor.features(self.read(data).inputs))

    def with_features(self, data: Dataset, features: Tensor) -> Dataset:
        """Return rows with features (N, D) as inputs, which are plain numbers."""
        schema = {**data.schema, "inputs": Column(form=Form(), role="seen")}
        return dataclasses.replace(data.with_columns(data.columns | {"inputs": features}), schema=schema)

    def joined(self, extractor: NetVictim, head: NetVictim, history: Sequence[State]) -> TransferVictim:
        """Return the victim of both parts."""
        return TransferVictim(extractor=extractor, linear=head, history=history)

    def with_step(self, step: Step) -> Self:
        """Return this recipe with one more step in the head's chain."""
        return dataclasses.replace(self, head=self.head.with_step(step))

    def with_epochs(self, epochs: int) -> Self:
        """Return this recipe with another number of epochs of the head."""
        return dataclasses.replace(self, head=self.head.with_epochs(epochs))

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse inputs that the extractor or the head refuses."""
        read = self.read(data)
        self.extractor.check(read, combine)
        width = self.extractor.begin(read, Key.root(0)).features(read.inputs[:1]).shape[1]
        self.head.check(self.with_features(data, torch.zeros(len(data), width)), combine)

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> TransferVictim:
        """Train the head, or continue with the head of `start`."""
        assert self.fitted, "with_public comes first"
        frozen = self.extractor.restore(Trained(state=self.fitted, facts={}), self.read(data), combine)
        begun = None if start is None else self.restore(Trained.of(start), data, combine)
        frozen = frozen if begun is None else begun.extractor
        if self.head.steps:  # only steps look at the trusted rows
            combine = dataclasses.replace(combine, trusted=self.featured(frozen, combine.trusted))
        head = self.head.fit(self.featured(frozen, data), combine, rng, begun and begun.linear)
        history = tuple(_joined(frozen.state(), state) for state in head.history)
        return self.joined(frozen, head, history)

    def fit_many(self, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> Sequence[Victim]:
        """Train one victim per part, one after the other."""
        return fit_each(self, parts, combine, rngs, start)

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Score with one victim after the other."""
        return score_each(victims, inputs)

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> TransferVictim:
        """Rebuild a victim."""
        frozen = self.extractor.restore(Trained(state=_under("extractor.", trained.state), facts={}), self.read(like), combine)
        featured = self.featured(frozen, like.take(torch.arange(min(1, len(like)))))
        head = self.head.restore(Trained(state=_under("last.", trained.state), facts=trained.facts), featured, combine)
        return self.joined(frozen, head, trained.history)


@dataclass(frozen=True, eq=False, kw_only=True)
class TransferVictim:
    """An extractor and a head.

    Args:
        extractor: gives features.
        linear: scores them.
        history: states during the training.
    """

    extractor: NetVictim
    linear: NetVictim
    history: Sequence[State] = ()

    @property
    def facts(self) -> Mapping[str, object]:
        """Facts about the head's training."""
        return self.linear.facts

    @property
    def module(self) -> Differentiable:
        """The differentiable model from pixels to scores."""
        extractor = self.extractor.module
        return _JoinedWords(extractor, self.linear.module) if isinstance(extractor, Worded) else _Joined(extractor, self.linear.module)

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) float32 scores."""
        return self.linear.scores(self.extractor.features(inputs))

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, D), the extractor's features."""
        return self.extractor.features(inputs, layer)

    def state(self) -> State:
        """Return the states of both parts."""
        return _joined(self.extractor.state(), self.linear.state())

    def silenced(self, channels_D: Tensor) -> TransferVictim:
        """Return a victim without these features of the extractor."""
        return dataclasses.replace(self, extractor=self.extractor.silenced(channels_D))


class _Joined(nn.Module):
    def __init__(self, extractor: Differentiable, last: Differentiable) -> None:
        super().__init__()
        self.extractor, self.last = extractor, last

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return iter(self.last.parameters())  # those that are trained: the extractor is frozen

    def lift(self, inputs: Tensor) -> Tensor:
        return self.extractor.lift(inputs)

    def features(self, inputs: Tensor) -> Tensor:
        return self.extractor.features(inputs)

    def activations(self, inputs: Tensor) -> Sequence[Tensor]:
        return self.extractor.activations(inputs)

    def head(self, features: Tensor) -> Tensor:
        return self.last(features)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(inputs))


class _JoinedWords(_Joined):
    @property
    def table(self) -> Tensor:
        return cast("Worded", self.extractor).table

    @property
    def known(self) -> Tensor:
        return cast("Worded", self.extractor).known


def _joined(extractor: State, head: State) -> State:
    return {f"extractor.{name}": value for name, value in extractor.items()} | {f"last.{name}": value for name, value in head.items()}


def _under(prefix: str, state: State) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
