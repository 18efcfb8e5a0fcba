"""Contrastive models of pictures and captions, as CLIP is one.

Shape letters: N rows, M pictures, K answers, L words of a caption, E numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.forms.prompts import CAPTION
from poisonbench.learn import device
from poisonbench.learn.central import EVAL_BATCH, Central, NetVictim
from poisonbench.nets.towers import PairNet, pair_net

Tower = Literal["pictures", "captions", "both"]


@dataclass(frozen=True, kw_only=True)
class Contrastive(Central):
    """A model of pictures and captions, trained so that each picture of a batch is more like its own caption than like the others.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (CLIP), ICML 2021. Its answer to a picture is the
    class whose captions are most like it (zero-shot classification). Labels are not learned; they serve filters that work class by class.

    Args:
        tower: the features that filters of training rows see: those of the "pictures", of the "captions", or "both", one after the other.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"
    tower: Tower

    def __post_init__(self) -> None:
        """Refuse recipes that cannot be trained."""
        super().__post_init__()
        if self.ddp:
            raise ConfigError(
                "learner.ddp=true: a pair is compared with all others of its batch, so a batch is not split among processes; set learner.ddp=false"
            )

    def victim(self) -> type[NetVictim]:
        """Return the class of the victims."""
        return ContrastiveVictim

    def begin(self, data: Dataset, rng: Key) -> NetVictim:
        """Return a victim with initial weights; the network for captions has counted the words of `data`."""
        victim = super().begin(data, rng)
        pair_net(victim.net, "learner=contrastive").ear.prepare(self._measured(data).extra[CAPTION].to(device.resolve(self.device)))
        return victim


@dataclass(frozen=True, eq=False, kw_only=True)
class ContrastiveVictim(NetVictim):
    """A trained model of pictures and captions."""

    @property
    def towers(self) -> PairNet:
        """The network, in evaluation mode, on the learner's device."""
        return pair_net(self.net, "learner=contrastive")

    def embedded(self, data: Dataset) -> tuple[Tensor, Tensor]:
        """Return (N, E) float32 embeddings of the pictures and of the captions of rows, each of length 1."""
        return self.of_pictures(data.inputs), self.of_captions(data.extra[CAPTION])

    def of_pictures(self, inputs: Tensor) -> Tensor:
        """Return (M, E) float32 embeddings of pictures as the data set stores them."""
        return torch.cat([torch.zeros(0), *(self.towers.pictures(batch).float().cpu() for batch in self._batches(inputs))])

    def of_captions(self, words: Tensor) -> Tensor:
        """Return (M, E) float32 embeddings of (M, L) words."""
        return self._said(words, self.towers.captions)

    def choose(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """Return (M, K) float32, the similarity of each picture to each of its (M, K, L) captions."""
        captions = self.of_captions(answers.flatten(0, 1)).view(*answers.shape[:2], -1)
        return torch.einsum("me,mke->mk", self.of_pictures(inputs), captions)

    def row_features(self, data: Dataset) -> Tensor:
        """Return (N, D) float32, the features of rows that the recipe names (`tower`)."""
        kind = cast("Contrastive", self.learner).tower
        found = [self.features(data.inputs)] if kind != "captions" else []
        found += [self._said(data.extra[CAPTION], self.towers.ear.features)] if kind != "pictures" else []
        return torch.cat(found, 1)

    def _each(self, batch: Batch) -> Tensor:
        """Return (B,), one minus the cosine of each picture and its caption; the loss of a pair in training depends on the other pairs of its batch."""
        return 1 - (self.towers.pictures(batch.inputs) * self.towers.captions(batch.extra[CAPTION])).sum(1)

    def _said(self, words: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode(), self.learner.autocast():
            found = [part(some.to(device.resolve(self.learner.device))).float().cpu() for some in words.split(EVAL_BATCH)]
        return torch.cat([torch.zeros(0), *found])
