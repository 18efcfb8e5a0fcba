"""Randomized ablation: train on, and answer from, a few randomly drawn pixels of each picture, and vote.

Shape letters: B rows of a batch, M test rows, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.finite import finite
from poisonbench.core.learner import Around, Batch, Combine, Fitted, Learner, Moment, PlainStep, Plan, State, Trained, Victim
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES

CHUNK = 20_000  # ablated pictures per chunk


@dataclass(frozen=True, kw_only=True)
class RandomizedAblation:
    """Answer with the class that the model gives to most random ablations of the picture.

    Source: Levine and Feizi, "Robustness Certificates for Sparse Adversarial Attacks by Randomized Ablation", AAAI 2020.

    An ablation keeps k of the H W pixels, drawn without replacement, and replaces the others by NULL. Every channel c is stored with its complement,
    (c, 255 - c), and NULL is (0, 0), so a missing pixel differs from every colour. The model is trained on ablated rows, with a new draw in every
    step.

    The certificate covers changes of a test picture, such as a trigger of few pixels. It does not cover poisoned training rows. (Deep partition
    aggregation uses the same argument for training sets.)

    Args:
        kept: k, 1 or more.
        draws: ablations that vote on each picture, 1 or more.
    """

    VERSION: ClassVar[int] = 2
    kept: int
    draws: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.kept, self.draws) < 1:
            raise ConfigError(f"defense.train.kept={self.kept}, draws={self.draws}: give 1 or more of each")

    def __call__(self, learner: Learner) -> Learner:
        """Return the learner that trains on ablated rows."""
        return Ablating(member=learner.with_step(AblateStep(kept=self.kept)), recipe=self)


@dataclass(frozen=True, kw_only=True)
class AblateStep(PlainStep):
    """Ablate every row of a batch.

    Source: Levine and Feizi, AAAI 2020, section 4.

    Args:
        kept: pixels that are kept.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    kept: int

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Check that the inputs are pictures with at least `kept` pixels.

        Raises:
            Incompatible: the inputs are not pictures.
            ConfigError: `kept` is larger than the number of pixels.
        """
        if len(plan.shape) != 3:
            raise Incompatible(f"randomized ablation takes pixels away; this learner's model sees inputs of shape {plan.shape}")
        if self.kept > (pixels := plan.shape[1] * plan.shape[2]):
            raise ConfigError(f"defense.train.kept={self.kept}: the pictures have {pixels} pixels")

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Return the ablated batch."""
        return dataclasses.replace(batch, inputs=ablated(batch.inputs, self.kept, moment.rng.child("ablate").torch()))


def ablated(inputs: Tensor, kept: int, generator: torch.Generator) -> Tensor:
    """Return (B, C, H, W) pictures that keep `kept` pixels each, drawn without replacement; the others are 0 in every channel."""
    count, _, height, width = inputs.shape
    drawn = torch.rand(count, height * width, generator=generator).argsort(1)[:, :kept]
    stay = torch.zeros(count, height * width).scatter_(1, drawn, 1.0).view(count, 1, height, width)
    return inputs * stay.to(inputs)


def doubled(inputs: Tensor) -> Tensor:
    """Return (B, 2C, H, W): each channel and its complement, so that no colour equals NULL."""
    return torch.cat([inputs, 255 - inputs], 1)


@dataclass(frozen=True, kw_only=True)
class Ablating(Around):
    """The learner whose member is trained on ablated rows.

    Source: Levine and Feizi, AAAI 2020.

    Args:
        recipe: the defense.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    MECHANISM: ClassVar[bool] = True
    recipe: RandomizedAblation

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check that the inputs are pictures, and that the member accepts them.

        Raises:
            Incompatible: the inputs are not pictures.
        """
        if data.inputs.ndim != 4 or data.inputs.dtype != torch.uint8:
            raise Incompatible("randomized ablation takes pixels away, and these rows are no pictures")
        self.member.check(self._seen(data), combine)

    def with_public(self, public: Dataset, fit: Fitted | None) -> Ablating:
        """Return the recipe whose member has the public rows, with complements like its own rows."""
        return dataclasses.replace(self, member=self.member.with_public(self._seen(public), fit))

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> AblatedVictim:
        """Train the member on rows with complements."""
        assert start is None, "ablations are learned from scratch"
        member = self.member.fit(self._seen(data), combine, rng)
        return AblatedVictim(member=member, recipe=self.recipe, kinds=data.num_classes, facts={**member.facts, "_ablations": rng.child("ablations").digest})

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> AblatedVictim:
        """Rebuild the member."""
        member = self.member.restore(Trained(state=trained.state, facts=trained.facts), self._seen(like), combine)
        return AblatedVictim(member=member, recipe=self.recipe, kinds=like.num_classes, facts=trained.facts)

    def _seen(self, data: Dataset) -> Dataset:
        return data.with_columns({**data.columns, "inputs": doubled(data.inputs)})


@dataclass(frozen=True, eq=False, kw_only=True)
class AblatedVictim:
    """A model that votes over ablations; its scores are counts of votes.

    Args:
        member: the model.
        recipe: the defense.
        kinds: K.
        facts: facts of the member's training, and the key of the random ablations.
        history: earlier states; none.
        module: None: votes have no gradient.
    """

    member: Victim
    recipe: RandomizedAblation
    kinds: int
    facts: Mapping[str, object]
    history: Sequence[State] = ()
    module: None = None

    def votes(self, inputs: Tensor, draws: int, purpose: str) -> Tensor:
        """Return (M, K) int64, how many of `draws` ablations of each picture get each class; each purpose has its own draws."""
        key = Key(str(self.facts["_ablations"])).child(purpose)
        counts = torch.zeros(len(inputs), self.kinds, dtype=torch.int64)
        for start in range(0, len(inputs), some := max(1, CHUNK // draws)):
            pictures = doubled(inputs[start : start + some])
            many = ablated(pictures.repeat_interleave(draws, 0), self.recipe.kept, key.child(str(start)).torch())
            scores = finite(self.member.scores(many), "scores of ablated pictures")
            answers = scores.argmax(1).view(len(pictures), draws)
            counts[start : start + some] = F.one_hot(answers, self.kinds).sum(1)
        return counts

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) votes; on a tie the smallest class is the answer."""
        return self.votes(inputs, self.recipe.draws, "answers").float()

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, D), the member's features of whole pictures."""
        return self.member.features(doubled(inputs), layer)

    def state(self) -> State:
        """Return the member's state."""
        return self.member.state()

    def silenced(self, channels_D: Tensor) -> AblatedVictim:
        """Return the victim whose member has these channels set to zero."""
        return dataclasses.replace(self, member=self.member.silenced(channels_D))
