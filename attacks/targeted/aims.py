"""What the targeted attacks share: which label they wish for, and which rows they build on.

Shape letters: T targets, N rows, D features, K classes, R rows chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Flip
from poisonbench.core.learner import Differentiable, Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known

Wish = Literal["random", "next"]
Bases = Literal["nearest", "first", "random"]


def wished(targets: Dataset, wish: Wish, rng: Key) -> Tensor:
    """Return (T,) int64, a label other than the true one for each target: drawn from all others, or the next class."""
    kinds = targets.num_classes
    drawn = 1 + (rng.child("wish").per_row(targets.ids)[:, 0] * (kinds - 1)).long()
    return (targets.labels + (drawn if wish == "random" else 1)) % kinds


def bases(known: Known, label: int, how: Bases, rng: Key, victim: Victim) -> Tensor:
    """Return (R,) int64, rows of the wished class to build the poison on, as many as the budget allows.

    Args:
        known: the attacker's world; its first target is what "nearest" is near to.
        label: the wished class.
        how: "nearest" to the target in the surrogate's features, the class's "first" rows, or "random" ones.
        rng: for "random".
        victim: the surrogate.

    Raises:
        ConfigError: fewer rows in the class than the budget asks for.
    """
    rows, count = known.rows, known.budget.rows(len(known.rows))
    pool = known.pool(rows.labels == label, count)
    order = {
        "nearest": lambda: distances(victim, rows.inputs[pool], known.targets.inputs).argsort(stable=True),
        "first": lambda: torch.arange(len(pool)),
        "random": lambda: rng.child("bases").per_row(rows.ids[pool])[:, 0].argsort(stable=True),
    }
    return pool[order[how]()[:count]]


def distances(victim: Victim, inputs: Tensor, target: Tensor) -> Tensor:
    """Return (N,) Euclidean distances to one target in the victim's features."""
    return (victim.features(inputs) - victim.features(target)).square().sum(1).sqrt()


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """What a clean-label attack optimises on.

    Args:
        inputs: (R, C, H, W) uint8 rows to start from, all of the wished class.
        label: the wished class.
        target: (1, C, H, W) uint8.
        modules: the surrogates.
        limit: largest change of a pixel.
    """

    inputs: Tensor
    label: int
    target: Tensor
    modules: list[Differentiable]
    limit: float


class CleanLabel(Protocol):
    """A targeted attack that moves rows of the wished class and leaves every label as it is."""

    @property
    def wish(self) -> Wish:
        """How the wished label is chosen."""
        ...

    @property
    def bases(self) -> Bases:
        """How the rows to start from are chosen."""
        ...

    @property
    def surrogates(self) -> int:
        """How many networks of different seeds are trained."""
        ...

    def moved(self, scene: Scene, rng: Key) -> Tensor:
        """Return (R, C, H, W) uint8 poisons."""
        ...


def clean_label(attack: CleanLabel, known: Known, rng: Key) -> Poisoned:
    """Train the surrogates, choose the rows, let the attack move them.

    Raises:
        ConfigError: no Linf limit, inputs that are no images, a surrogate without gradients, or fewer rows in the wished
            class than the budget asks for.
    """
    rows, limit, wish = known.rows, known.budget.limit, wished(known.targets, attack.wish, rng)
    if known.budget.norm != "linf" or limit is None or rows.inputs.ndim != 4:
        raise ConfigError("this attack perturbs images within threat.budget.norm=linf and a limit, such as threat=targeted")
    goal = Flip(ids=known.targets.ids, wish=wish)
    if known.budget.rows(len(rows)) == 0:
        return Poisoned(data=rows, mask=known.mask(torch.arange(0)), goal=goal)
    victims = [known.fit(rows, draw=draw) for draw in range(attack.surrogates)]
    modules = [victim.module for victim in victims if victim.module is not None]
    if len(modules) < len(victims):
        raise ConfigError("this attack needs surrogates with gradients; choose another threat.surrogate")
    chosen = bases(known, int(wish[0]), attack.bases, rng, victims[0])
    scene = Scene(inputs=rows.inputs[chosen], label=int(wish[0]), target=known.targets.inputs, modules=modules, limit=limit)
    return Poisoned(data=rows.edit(chosen, inputs=attack.moved(scene, rng)), mask=known.mask(chosen), goal=goal)
