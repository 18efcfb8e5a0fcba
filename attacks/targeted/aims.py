"""Shared code of targeted attacks: the wished label of a target, and the base rows of the poison.

Shape letters: T targets, N rows, D features, K classes, R rows chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

Wish = Literal["random", "next", "likely"]
Bases = Literal["nearest", "first", "random", "gradient"]


def wished(  # noqa: PLR0913  # two arguments, and what single attacks add
    targets: Dataset,
    wish: Wish,
    rng: Key,
    base_class: int | None = None,
    surrogate: Callable[[], Victim] | None = None,
    among: Tensor | None = None,
) -> Tensor:
    """Return (T,) int64, a wrong label for each target.

    Args:
        targets: T test rows.
        wish: "random" draws from all other labels, "next" is the next class, "likely" the wrong label that the surrogate finds most likely.
        rng: for "random".
        base_class: the label of all targets, in place of `wish`.
        surrogate: needed for "likely" alone, and trained only then.
        among: (K,) bool, the classes that may be wished for; None for all.

    Raises:
        ConfigError: there is no such class, a target already belongs to it, or there is no surrogate to ask.
    """
    kinds = targets.num_classes
    if base_class is not None:
        if not 0 <= base_class < kinds:
            raise ConfigError(f"attack.data.base_class={base_class}: {kinds} classes allow 0 to {kinds - 1}")
        if own := targets.ids[targets.labels == base_class].tolist():
            belongs = f"test row {own[0]}, a target, already belongs to class {base_class}"
            raise ConfigError(f"attack.data.base_class={base_class}: {belongs}; set threat.target_class to another class")
        return torch.full_like(targets.labels, base_class)
    if wish == "likely":
        if surrogate is None:
            raise ConfigError("attack.data.wish=likely: this attack trains no surrogate; choose random or next")
        scores = surrogate().scores(targets.inputs)
        scores = scores if among is None else scores.where(among, -torch.inf)
        return scores.scatter(1, targets.labels[:, None], -torch.inf).argmax(1)
    draws = rng.child("wish").per_row(targets.ids)[:, 0].tolist()
    after = [(label + torch.arange(1, kinds)) % kinds for label in targets.labels.tolist()]  # the wrong classes, from the next one on
    wrong = after if among is None else [classes[among[classes]] for classes in after]
    if not all(map(len, wrong)):
        raise ConfigError("no class but that of a target can be wished for; choose a task with more classes")
    return torch.stack([classes[int(draw * len(classes)) if wish == "random" else 0] for classes, draw in zip(wrong, draws, strict=True)])


def bases(known: Known, label: int, how: Bases, rng: Key, victim: Victim) -> Tensor:
    """Return (R,) int64, the rows of the wished class that the poison starts from, as many as the budget allows.

    Args:
        known: what the attacker knows; "nearest" is relative to its first target.
        label: the wished class.
        how: "nearest" to the target in the surrogate's features, the "first" rows of the class, "random" ones, or those with the largest "gradient"
            of the head's weights at the surrogate.
        rng: for "random".
        victim: the surrogate.

    Raises:
        ConfigError: the class has fewer rows than the budget.
    """
    rows, count = known.rows, known.budget.rows(len(known.rows))
    pool = known.pool(rows.labels == label, count)
    order = {
        "nearest": lambda: distances(victim, rows.inputs[pool], known.targets.inputs).argsort(stable=True),
        "first": lambda: torch.arange(len(pool)),
        "random": lambda: rng.child("bases").per_row(rows.ids[pool])[:, 0].argsort(stable=True),
        "gradient": lambda: head_gradients(victim, rows.take(pool)).argsort(stable=True, descending=True),
    }
    return pool[order[how]()[:count]]


def distances(victim: Victim, inputs: Tensor, target: Tensor) -> Tensor:
    """Return (N,) Euclidean distances to one target in the features of `victim`."""
    return (victim.features(inputs) - victim.features(target)).square().sum(1).sqrt()


def head_gradients(victim: Victim, rows: Dataset) -> Tensor:
    """Return (N,), the norm of each row's cross-entropy gradient by the weights of a linear head: |softmax - onehot| times |features|."""
    errors_NK = victim.scores(rows.inputs).softmax(1)
    errors_NK[torch.arange(len(rows)), rows.labels] -= 1
    norms: Tensor = torch.linalg.vector_norm(errors_NK, dim=1) * torch.linalg.vector_norm(victim.features(rows.inputs), dim=1)
    return norms


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """The inputs of a clean-label optimisation.

    Args:
        inputs: (R, C, H, W) uint8 base rows, all of the wished class.
        label: the wished class.
        target: (1, C, H, W) uint8.
        modules: the surrogates.
        limit: largest change of a poison, in grey levels; a whole number for "linf".
        norm: how a change is measured, "linf" or "l2".
        known: what the attacker knows, to train further surrogates.
        chosen: (R,) int64, positions of the base rows.
    """

    inputs: Tensor
    label: int
    target: Tensor
    modules: list[Differentiable]
    limit: float
    norm: str
    known: Known
    chosen: Tensor

    def poisoned(self, poisons: Tensor) -> Dataset:
        """Return all training rows, with (R, C, H, W) uint8 poisons in place of the base rows."""
        return self.known.rows.edit(self.chosen, inputs=poisons)

    def near(self, moved: Tensor) -> Tensor:
        """Return the nearest pictures that the budget allows: pixels in 0..255, changes of at most the limit."""
        clean = self.inputs.float()
        if self.norm == "linf":
            return moved.clamp((clean - self.limit).clamp_min(0), (clean + self.limit).clamp_max(255))
        change = moved.clamp(0, 255) - clean
        size = change.flatten(1).norm(dim=1).clamp_min(1e-12)
        shares: Tensor = (self.limit / size).clamp_max(1)
        return clean + change * shares[:, None, None, None]

    def stored(self, moved: Tensor) -> Tensor:
        """Return uint8 poisons; where rounding may exceed the limit, changes are rounded towards zero."""
        if self.norm == "linf":
            return moved.round().to(torch.uint8)
        return (self.inputs.float() + (moved - self.inputs.float()).trunc()).to(torch.uint8)


class CleanLabel(Protocol):
    """A targeted attack that perturbs rows of the wished class and keeps all labels."""

    @property
    def wish(self) -> Wish:
        """How the wished label is chosen."""
        ...

    @property
    def bases(self) -> Bases:
        """How the base rows are chosen."""
        ...

    @property
    def surrogates(self) -> int:
        """Number of surrogates, trained with different seeds."""
        ...

    def moved(self, scene: Scene, rng: Key) -> Tensor:
        """Return (R, C, H, W) uint8 poisons."""
        ...


def clean_label(attack: CleanLabel, known: Known, rng: Key, norms: tuple[str, ...] = ("linf",), base_class: int | None = None) -> Poisoned:
    """Train the surrogates, choose the base rows and let the attack perturb them.

    Args:
        attack: perturbs the base rows.
        known: what the attacker knows.
        rng: of the poison.
        norms: in which the attack keeps a limit.
        base_class: the wished class; None: the attack's `wish` chooses it.

    Raises:
        ConfigError: there is no such limit or it allows no change, the inputs are not images, a target already has the wished label, a surrogate has
            no gradients, or the wished class has fewer rows than the budget.
    """
    rows, limit, wish = known.rows, known.budget.limit, wished(known.targets, attack.wish, rng, base_class, lambda: known.fit(known.rows))
    if known.budget.norm not in norms or limit is None:
        raise ConfigError(f"this attack perturbs images within threat.budget.norm={' or '.join(norms)} and a limit, such as threat=targeted")
    goal, count = Flip(ids=known.targets.ids, wish=wish), known.budget.rows(len(rows))
    if count == 0:
        return Poisoned(data=rows, mask=known.mask(torch.arange(0)), goal=goal)
    if limit < 1:
        raise ConfigError(f"threat.budget.limit={limit:g} allows no change of whole grey levels; give 1 or more, or threat.budget.rate=0 for no poison")
    known.pool(rows.labels == wish[0], count)  # too few rows are refused before surrogates are trained
    victims = [known.fit(rows, draw=draw) for draw in range(attack.surrogates)]
    modules = differentiable(victims)
    chosen = bases(known, int(wish[0]), attack.bases, rng, victims[0])
    scene = Scene(
        inputs=rows.inputs[chosen],
        label=int(wish[0]),
        target=known.targets.inputs,
        modules=modules,
        limit=math.floor(limit) if known.budget.norm == "linf" else limit,
        norm=known.budget.norm,
        known=known,
        chosen=chosen,
    )
    return Poisoned(data=rows.edit(chosen, inputs=attack.moved(scene, rng)), mask=known.mask(chosen), goal=goal)


def differentiable(victims: Sequence[Victim]) -> list[Differentiable]:
    """Return the models of surrogates.

    Raises:
        ConfigError: a surrogate has no gradients.
    """
    modules = [victim.module for victim in victims if victim.module is not None]
    if len(modules) < len(victims):
        raise ConfigError("this attack needs surrogates with gradients; choose another threat.surrogate")
    return modules
