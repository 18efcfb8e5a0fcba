"""What the targeted attacks share: which label they wish for, and which rows they build on.

Shape letters: T targets, N rows, D features, K classes, R rows chosen.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
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


def gradients_of(victim: Victim, what: str) -> Differentiable:
    """Return the surrogate's differentiable model.

    Raises:
        ConfigError: a surrogate that has none.
    """
    if victim.module is None:
        raise ConfigError(f"attack={what} needs a surrogate with gradients; choose another threat.surrogate")
    return victim.module


def need_pixels(known: Known, what: str) -> float:
    """Return the Linf limit of a clean-label threat on images.

    Raises:
        ConfigError: another threat, or inputs that are no images.
    """
    limit = known.budget.limit
    if known.budget.norm != "linf" or limit is None or known.rows.inputs.ndim != 4:
        raise ConfigError(f"attack={what} perturbs images within threat.budget.norm=linf and a limit, such as threat=clean_label")
    return limit
