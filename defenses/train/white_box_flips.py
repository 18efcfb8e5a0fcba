"""Partition ensembles whose members keep their rows and labels, so that the effect of every label on every answer is known.

Shape letters: N rows, M test rows, R members, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # the usual name

from defenses.train.dpa import Ensemble, Parted
from poisonbench.core.data import Dataset
from poisonbench.core.errors import Incompatible
from poisonbench.core.influence import Influence, LinearInLabels
from poisonbench.core.learner import Around, Combine, Learner, State, Trained, Victim
from poisonbench.core.plain import PlainVictim
from poisonbench.core.proof import ALONE, Tolerance
from poisonbench.core.rng import Key

SLICE = 1000  # test rows at a time: (rows, R, K) scores are held, 240 MB for 3,000 members and 10 classes


@dataclass(frozen=True, kw_only=True)
class WhiteBoxFlips(Parted):
    """Train one member on each of k disjoint parts, as SS-DPA does, and keep what a certificate needs to count relabelled rows inside each part.

    Source: Mohgaonkar, Gosch, Sabanayagam, Ghoshdastidar and Guennemann, "Exact Certification of Neural Networks and Partition Aggregation Ensembles
    Against Label Poisoning", ICLR 2026 (arXiv 2604.11416), of which only the abstract was read. Parts and votes are those of Levine and Feizi, "Deep
    Partition Aggregation: Provable Defense against General Poisoning Attacks", ICLR 2021.

    Members have to be linear in their labels (`poisonbench.core.influence.LinearInLabels`): learner=ridge and learner=kernel_ridge are. What such a
    member takes from labels is their one-hot form alone. Its ridge and the width of its kernel are numbers in the configuration, its features have no
    parameters, and targets are centred by 1 / K, which is the same number for all labels. The choice of a part does not depend on labels.

    Differences: the paper's members are kernel machines that are equivalent to wide networks; here they are ridge regressions. They are solved in
    float64 and the learner by itself in float32, so answers that are nearly ties may differ between the two.

    Args:
        parts: k, 1 or more. With 1 there is no vote.
        member: recipe of the members; null: the recipe of the run.
        split: how a row's part is chosen: "sorted" as in `SsDpa`, or "salted" as in `Dpa`. Equal inputs need "salted".
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ALONE  # a row that a filter removes is not a flipped label
    split: Literal["sorted", "salted"]

    def __call__(self, learner: Learner) -> Learner:
        """Return the ensemble."""
        return Ensemble(member=Labelled(member=self.member or learner), parts=self.parts, split=self.split)


@dataclass(frozen=True, kw_only=True)
class Labelled(Around):
    """The learner that solves for each member in float64 and keeps its rows and labels.

    Source: as `WhiteBoxFlips`.
    """

    VERSION: ClassVar[int] = 1

    @property
    def linear(self) -> LinearInLabels:
        """The member.

        Raises:
            Incompatible: it is not linear in its labels.
        """
        if not isinstance(self.member, LinearInLabels):
            asked = f"use learner=ridge or kernel_ridge instead of {type(self.member).__name__}"
            raise Incompatible(f"defense=white_box_flips needs members that are linear in their labels; {asked}")
        return self.member

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse members that are not linear in their labels, and what the member refuses.

        Raises:
            Incompatible: which member.
        """
        linear = self.linear
        self.member.check(data, combine)
        linear.check_influence(len(data))

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> LabelledVictim:
        """Solve."""
        targets = F.one_hot(data.labels, data.num_classes).double() - 1 / data.num_classes
        solution = self.linear.influence(data.inputs).solution(targets)
        own = {"inputs": data.inputs, "labels": data.labels, "solution": solution}
        return self.restore(Trained(state=own, facts={"rows": len(data)}), data, combine)

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> LabelledVictim:
        """Rebuild a victim."""
        state = trained.state
        return LabelledVictim(
            learner=self, inputs=state["inputs"], labels=state["labels"], kinds=like.num_classes, solution=state["solution"], facts=trained.facts
        )

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Yield scores in float64, so that no rounding to float32 decides a vote; the features of each slice are computed once."""
        for some in inputs.split(SLICE):
            features = self.linear.featured(some).double()
            yield torch.stack([cast("LabelledVictim", victim).asked(features) for victim in victims], 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledVictim(PlainVictim):
    """A member with its rows and labels.

    Args:
        learner: its recipe.
        inputs: inputs of its N rows.
        labels: (N,) labels.
        kinds: K.
        solution: what scores are computed from, float64.
    """

    learner: Labelled
    inputs: Tensor
    labels: Tensor
    kinds: int
    solution: Tensor

    @cached_property
    def influence(self) -> Influence:
        """The influence of its rows."""
        return self.learner.linear.influence(self.inputs)

    def asked(self, features_MD: Tensor) -> Tensor:
        """Return (M, K) float64 scores from features."""
        return self.influence.scores(features_MD, self.solution)

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) float32 scores."""
        return self.asked(self.learner.linear.featured(inputs)).float()

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, D) features of the member's map."""
        return self.learner.linear.featured(inputs).cpu()

    def state(self) -> State:
        """Return rows, labels and the solution."""
        return {"inputs": self.inputs.contiguous(), "labels": self.labels.contiguous(), "solution": self.solution.contiguous()}
