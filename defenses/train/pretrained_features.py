"""Pretrained features: only a linear head is trained on the rows, on features that no training row can change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Learner


@dataclass(frozen=True, kw_only=True)
class PretrainedFeatures:
    """Replace the recipe of the run by one that trains a linear head on features that saw none of the training rows.

    Source: no single paper. Peri et al. (2020) and Schwarzschild et al. (2021) study targeted poisons in this transfer setting, there as a place of
    attack: the attacker knows the extractor. As a defense it means that poison can only act through a linear model. So noise that makes rows easy to
    learn, or gradients of a network, lose their means; poison that collides with a target in these very features, and wrong labels, do not.

    Two kinds of features are included:

    - `learner@defense.train.member=transfer` (default): a network that is trained on public rows, which the task sets aside (`split.public`). They are
      drawn from the same task, so they are worth more than rows of another data set, and the run has fewer training rows.
    - `learner@defense.train.member=ridge features@defense.train.member.features=hog`: features that are computed without any training.

    Any other member without trained features is accepted too, such as trees on the pixels; then it is that model, and not a linear one, that poison acts
    through.

    Attackers craft against their own `threat.surrogate`. By default it is the recipe of the run and not this one; set it to the member for an attacker
    who knows the defense.

    Args:
        member: the recipe with fixed features.
    """

    VERSION: ClassVar[int] = 1
    member: Learner

    def __call__(self, learner: Learner) -> Learner:
        """Return the member; the recipe of the run trains only the undefended victim.

        Raises:
            ConfigError: the member trains its features on the rows.
        """
        if {"attack.train", "attack.update"} & self.member.stages:  # a recipe with a place in the training of all weights
            asked = f"defense.train.member={type(self.member).__name__} trains its features on the training rows"
            raise ConfigError(f"{asked}; choose one with fixed features, such as learner@defense.train.member=transfer")
        return self.member
