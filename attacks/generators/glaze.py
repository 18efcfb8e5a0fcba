"""Glaze: an artist's own pictures, changed so that a model that learns from them does not learn the style.

Shape letters: R cloaked pictures, D numbers of a code, A artists, O other artists.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.availability.noise import limit_of
from attacks.generators.goals import OtherConcept, concept_rows
from attacks.generators.nightshade import Nightshade
from poisonbench.core.abilities import Coding
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.goals import Probe
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.shapes import PICTURE


@dataclass(frozen=True, eq=False, kw_only=True)
class NotMimicked(OtherConcept):
    """Keep the model from drawing in the style of an artist. ASR is the share of the captions of `concept` whose picture is not in that style.

    The figures are those of `OtherConcept`, with styles in place of concepts. "kept" is the share of these captions that the model draws in the style of
    the artist: its success at mimicry. A model that draws this style badly without a cloak has a high ASR too, so the record has the ASR of the model of
    clean rows beside it.
    """

    VERSION: ClassVar[int] = 1

    def probe(self, test: Dataset) -> Probe:
        """Return the captions of the artist; every answer but the artist's style is a success, "none of them" as well."""
        probe = super().probe(test)
        hit = torch.ones_like(probe.hit)
        hit[:, self.concept] = False
        return dataclasses.replace(probe, hit=hit)


@dataclass(frozen=True, kw_only=True)
class Glaze:
    """Cloak the pictures of an artist: within the limit of each pixel, move them to codes of pictures in another style.

    The artist is the "attacker" here, and protects the own pictures: the rows change before a model of someone else learns from them.

    Source: Shan, Cryan, Wenger, Zheng, Hanocka, Zhao, "Glaze: Protecting Artists from Style Mimicry by Text-to-Image Models", USENIX Security 2023,
    section 5. The target style is drawn among the styles whose distance from the artist's is between the 50th and the 75th percentile; the distance is
    that of mean codes. The distance between the code of the cloaked picture and that of the same picture in the target style is minimised.

    Difference: the paper makes the picture in the target style with a model of style transfer; here it is the training picture of the target style with
    the nearest code, so the subject may differ. The paper limits a perceptual distance (LPIPS, p = 0.05, with a penalty of 30); here the limit is the
    change of each pixel, and the steps are those of `nightshade`. The artist of the paper encodes with a public model; here the surrogate of the threat.

    Args:
        artist: number of the class whose pictures are cloaked.
        anchors: pictures of the target style to choose from, for each picture the one with the nearest code.
        steps: of the gradient.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = Nightshade.READS
    COLUMNS: ClassVar[tuple[str, ...]] = Nightshade.COLUMNS
    artist: int
    anchors: int
    steps: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.anchors, self.steps) < 1:
            raise ConfigError(f"attack.data.anchors={self.anchors}, attack.data.steps={self.steps}: give 1 or more of both")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with cloaked pictures of the artist.

        Raises:
            ConfigError: the budget has no limit of each pixel, or no training row is of the artist, or of no one else.
            Incompatible: a surrogate without an encoder of pictures.
        """
        limit_of(known, "linf", "own_pictures")
        concept_rows(known, self.artist, "artist")
        victim = known.fit(known.rows)
        if not isinstance(victim, Coding):
            raise Incompatible("attack=glaze needs a model that encodes pictures; choose threat.surrogate=learner=text_to_image, the default")
        with torch.no_grad():
            codes = victim.coding.features(known.rows.extra[PICTURE].float())
        target = target_style(codes, known.rows.labels, self.artist, rng.child("style"))
        cloak = Nightshade(concept=self.artist, anchor=target, anchors=self.anchors, steps=self.steps)
        poisoned = cloak.poison(known, rng)
        assert isinstance(poisoned.goal, OtherConcept), "the goal of attacks on concepts"
        fields = {field.name: getattr(poisoned.goal, field.name) for field in dataclasses.fields(poisoned.goal)}
        return dataclasses.replace(poisoned, goal=NotMimicked(**fields))


def target_style(codes: Tensor, labels: Tensor, artist: int, rng: Key) -> int:
    """Return another artist, drawn among those whose mean code is between the 50th and the 75th percentile of distances from this one's.

    With O other artists in the order of their distance, these are the ranks from ceil(0.5 (O - 1)) to floor(0.75 (O - 1)), counted from 0; the first of
    these two where the second is smaller.

    Args:
        codes: (N, D) of pictures.
        labels: (N,) int64, the artists.
        artist: one of them.
        rng: draws one.

    Raises:
        ConfigError: there is no other artist.
    """
    artists, place = labels.unique(return_inverse=True)
    means = torch.stack([codes[place == number].double().mean(0) for number in range(len(artists))])
    others = artists[artists != artist]
    if len(others) == 0:
        raise ConfigError(f"attack.data.artist={artist}: no training row is of another artist; choose a task with several, such as task=styles")
    order = others[(means[artists != artist] - means[artists == artist]).norm(dim=1).argsort(stable=True)]
    first, last = math.ceil(0.5 * (len(order) - 1)), math.floor(0.75 * (len(order) - 1))
    among = order[first : max(first, last) + 1]
    return int(among[rng.pick(among, 1)][0])
