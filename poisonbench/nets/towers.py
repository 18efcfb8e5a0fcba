"""Two networks that put pictures and captions into one space.

Shape letters: M pictures, C captions, E numbers of an embedding, K classes, L words of a caption.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Choice, Column
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.prompts import CAPTION, Prompts, prompts_of
from poisonbench.nets.net import FeatureNet, Net, Says

LARGEST = 100.0  # factor of the similarities, as in CLIP


@dataclass(frozen=True, kw_only=True)
class Towers:
    """A network for pictures and one for captions; the cosine of their outputs says how well a caption fits a picture.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (CLIP), ICML 2021: both outputs have length 1, and
    similarities are multiplied by a factor that is learned and at most 100. The networks here are small, and any network for pictures and any for text
    can be a tower; its last layer gives the embedding in place of scores of classes.

    Args:
        pictures: recipe of the network for pictures.
        captions: recipe of the network for captions.
        width: E, numbers of an embedding.
        temperature: 1 / the factor at the start, in [0.01, 1] (CLIP: 0.07).
        norm: "own", what the recipe of the pictures says; or "group" in its place, as ensembles ask of every network.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    pictures: Net
    captions: Net
    width: int
    temperature: float
    norm: Literal["own", "group"] = field(default="own", metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Refuse numbers that define no network."""
        if self.width < 2 or not 1 / LARGEST <= self.temperature <= 1:
            raise ConfigError(f"net.width={self.width}, net.temperature={self.temperature}: give 2 numbers or more, and a temperature from 0.01 to 1")

    def build(self, like: Dataset) -> PairNet:
        """Return a fresh module.

        Raises:
            Incompatible: rows that are no pictures with captions.
        """
        prompts = prompts_of(like, "net=towers")
        labels, words = Column(form=Choice(size=self.width), role="said"), like.schema[CAPTION]
        seen = dataclasses.replace(like, schema=MappingProxyType({**like.schema, "labels": labels}))
        said = dataclasses.replace(seen, inputs=like.extra[CAPTION], schema=MappingProxyType({**seen.schema, "inputs": words}))
        return PairNet(self._eye.build(seen), self.captions.build(said), self.temperature, prompts)

    @property
    def _eye(self) -> Net:
        """The recipe of the pictures with the normalisation that is asked for; a network without such a setting stays as it is."""
        if self.norm == "own" or not hasattr(self.pictures, "norm"):
            return self.pictures
        return dataclasses.replace(self.pictures, norm=self.norm)  # type: ignore[type-var]


class PairNet(FeatureNet):
    """The module of `Towers`. Of pictures alone it gives scores of classes: the similarity to the mean of the captions that name each class.

    Args:
        eye: from pictures to (M, E).
        ear: from words to (C, E).
        temperature: at the start.
        prompts: the captions that name the classes.
    """

    texts: Tensor
    of: Tensor

    def __init__(self, eye: FeatureNet, ear: FeatureNet, temperature: float, prompts: Prompts) -> None:
        super().__init__()
        self.eye, self.ear, self.kinds = eye, ear, prompts.size
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.register_buffer("texts", prompts.texts, persistent=False)
        self.register_buffer("of", prompts.classes, persistent=False)

    @property
    def says(self) -> Says:
        """Return that it compares pictures with captions."""
        return "pairs"

    @property
    def stackable(self) -> bool:
        """Return False: two networks have no stacked form."""
        return False

    @property
    def alone(self) -> bool:
        """Return whether both networks can be trained on one row."""
        return self.eye.alone and self.ear.alone

    @property
    def drifts(self) -> bool:
        """Return whether a network changes anything but its weights."""
        return self.eye.drifts or self.ear.drifts

    @property
    def scale(self) -> Tensor:
        """Return the factor of the similarities."""
        return self.log_scale.exp().clamp(max=LARGEST)

    def pictures(self, inputs: Tensor) -> Tensor:
        """Return (M, E) embeddings of length 1."""
        return F.normalize(self.eye(inputs).float(), dim=1)

    def captions(self, words: Tensor) -> Tensor:
        """Return (C, E) embeddings of length 1 of (C, L) words."""
        return F.normalize(self.ear(words).float(), dim=1)

    def compared(self, pictures_ME: Tensor) -> Tensor:
        """Return (M, K) scores of classes for embeddings of pictures; a class that no caption names has the lowest possible score."""
        each = self.captions(self.texts)
        sums = torch.zeros(self.kinds, each.shape[1], dtype=each.dtype, device=each.device).index_add(0, self.of, each)
        scores = pictures_ME @ F.normalize(sums, dim=1).T
        named = torch.zeros(self.kinds, dtype=torch.bool, device=each.device).index_fill(0, self.of, value=True)
        return torch.where(named, scores, -1.0) * self.scale

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D), the inputs of the last layer of the network for pictures."""
        return self.eye.features(inputs)

    def activations(self, inputs: Tensor) -> list[Tensor]:
        """Return those of the network for pictures."""
        return self.eye.activations(inputs)

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores of classes from features of pictures."""
        return self.compared(F.normalize(self.eye.head(features).float(), dim=1))

    def prepare(self, inputs: Tensor) -> None:
        """Let the network for pictures measure the training pictures."""
        self.eye.prepare(inputs)

    def silence(self, channels_D: Tensor) -> None:
        """Set these features of pictures to zero permanently."""
        self.eye.silence(channels_D)

    def forward(self, inputs: Tensor, captions: Tensor | None = None) -> Tensor:
        """Return (M, C) similarities of pictures and (C, L) captions, times the factor; without captions, (M, K) scores of classes."""
        if captions is None:
            return self.head(self.features(inputs))
        return self.pictures(inputs) @ self.captions(captions).T * self.scale


def pair_net(module: nn.Module, what: str) -> PairNet:
    """Return a module as the network of a contrastive model.

    Raises:
        Incompatible: it is none; `what` needs one.
    """
    if not isinstance(module, PairNet):
        raise Incompatible(f"{what} needs a model of pictures and captions; use learner=contrastive")
    return module
