"""What an attacker may do and what an attacker knows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import Tensor

from poisonbench.core.data import Dataset, Task
from poisonbench.core.defense import Fit, Tune
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Learner
from poisonbench.core.reach import OWN_ROWS, Reach
from poisonbench.core.rng import Key

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Plan = TypeVar("Plan", bound=DataclassInstance)

POISON_RATE = "poison_rate"  # a field with `metadata={"fact": POISON_RATE}` that is None gets the threat's poison rate


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much an attacker may change. An attack reads it; the audit enforces it.

    Args:
        rate: poisoned rows / clean training rows, in [0, 1]; also for clean-label attacks.
        count: poisoned rows, instead of `rate`.
        norm: how a change of one row is measured: a norm of the form of the inputs, such as "linf" or "l2" for pixels in 0..255 and "tokens"
            (insertions, deletions and replacements) for texts; None is any change.
        limit: the largest change of one row in that norm.
        relabel: labels may change; False is a clean-label threat.
        inject: rows may be added.
        clients: share of malicious clients, in [0, 1].
        at_most: fewer rows may be poisoned where fewer are within reach, such as those on the domains that the attacker could pay for; False: an attack
            that finds fewer rows than the budget allows is an error.
    """

    VERSION: ClassVar[int] = 1
    rate: float = 0.05
    count: int | None = None
    norm: str | None = None
    limit: float | None = None
    relabel: bool = True
    inject: bool = False
    clients: float = 0.0
    at_most: bool = dataclasses.field(default=False, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"threat.budget.rate={self.rate}: a poison rate lies in [0, 1]; 0.05 is 5 %")
        if not 0 <= self.clients <= 1:
            raise ConfigError(f"threat.budget.clients={self.clients}: a share of clients lies in [0, 1]")
        if self.count is not None and self.count < 0:
            raise ConfigError(f"threat.budget.count={self.count}: a number of rows is 0 or more")
        if (self.norm is None) != (self.limit is None):
            raise ConfigError(f"threat.budget.norm={self.norm} with limit={self.limit}: set both or neither")
        if self.limit is not None and not 0 <= self.limit < math.inf:
            raise ConfigError(f"threat.budget.limit={self.limit}: a limit is finite and 0 or more")

    def share(self, clean: int) -> float:
        """Return the share of `clean` rows that may be poisoned: the rate, or count over the number of rows."""
        return self.rate if self.count is None else self.count / clean

    def rows(self, clean: int) -> int:
        """Return how many of `clean` rows may be poisoned: never more than the rate says.

        Raises:
            ConfigError: the budget is above zero and still selects no row.
        """
        if self.count is not None:
            return self.count
        allowed = math.floor(self.rate * clean + 1e-9)
        if self.rate > 0 and allowed == 0:
            raise ConfigError(f"threat.budget.rate={self.rate} of {clean} rows selects none; give at least {math.ceil(1e6 / clean) / 1e6:g}, or 0")
        return allowed


@dataclass(frozen=True, eq=False, kw_only=True)
class Known:
    """Everything that the attacker knows and may use.

    Args:
        rows: the clean training rows.
        writable: (N,) bool, the rows that the attacker may change.
        budget: how much may change.
        targets: test rows, with their true labels, that the attacker may aim at in this trial.
        public: rows that cannot be poisoned.
        fit: trains the attacker's surrogate; its seeds are never the victim's.
        tune: continues the training of a surrogate.
    """

    rows: Dataset
    writable: Tensor
    budget: Budget
    targets: Dataset
    public: Dataset
    fit: Fit
    tune: Tune

    def pool(self, wanted_N: Tensor, count: int) -> Tensor:
        """Return the positions of the writable rows where (N,) bool `wanted_N` holds; at least `count`, unless the budget is a maximum (`at_most`).

        Raises:
            ConfigError: fewer rows than that.
        """
        rows = (self.writable & wanted_N).nonzero()[:, 0]
        if count > len(rows) and not self.budget.at_most:
            share = len(rows) / count
            most = (
                f"rate to {math.floor(1e4 * self.budget.rate * share) / 1e4:g}" if self.budget.count is None else f"count to {int(self.budget.count * share)}"
            )
            raise ConfigError(f"threat.budget allows {count} poisoned rows, but only {len(rows)} can be poisoned; lower threat.budget.{most}")
        return rows

    def choose(self, wanted_N: Tensor, rng: Key) -> Tensor:
        """Return as many rows as the budget allows, drawn at random from `pool`; nested over budgets.

        Raises:
            ConfigError: fewer rows than that.
        """
        count = self.budget.rows(len(self.rows))
        rows = self.pool(wanted_N, count)
        return rows[rng.pick(self.rows.ids[rows], min(count, len(rows)))]

    def mask(self, chosen: Tensor) -> Tensor:
        """Return (N,) bool, true at the positions `chosen`."""
        mask = torch.zeros(len(self.rows), dtype=torch.bool)
        mask[chosen] = True
        return mask


@dataclass(frozen=True, kw_only=True)
class Threat:
    """What the attacker knows and may do.

    Args:
        budget: how much may change.
        surrogate: the attacker's guess of the victim's learner.
        trials: independent (target, poison, victim) triples, each with the whole budget.
        rounds: first federated round of the attack and the one after its last, such as [15, 20]; None is every round.
            In all other rounds malicious clients train honestly on their clean rows.
        omniscient: an attacker on updates sees all of them; otherwise only those of the malicious clients.
        target_class: label of the test rows that the attacker aims at; None: any.
        targets: test rows that the attacker aims at in each trial.
        reach: the training rows that the attacker can write.
        target_ids: ids of the test rows that the attacker aims at, those of each trial after those of the one before; None: drawn at random.
    """

    VERSION: ClassVar[int] = 2
    budget: Budget
    surrogate: Learner
    trials: int = 1
    rounds: tuple[int, ...] | None = None
    omniscient: bool = True
    target_class: int | None = dataclasses.field(default=None, metadata={"spec": "changed"})
    targets: int = dataclasses.field(default=1, metadata={"spec": "changed"})
    reach: Reach = dataclasses.field(default=OWN_ROWS, metadata={"spec": "changed"})
    target_ids: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if self.trials < 1 or self.targets < 1:
            raise ConfigError(f"threat.trials={self.trials}, threat.targets={self.targets}: give 1 or more of both")
        if self.rounds is not None and not (len(self.rounds) == 2 and 0 <= self.rounds[0] < self.rounds[1]):
            raise ConfigError(f"threat.rounds={list(self.rounds)}: give the first round and the one after the last, such as [15,20]")

    def poison_rate(self, clean: Dataset) -> float:
        """Return the share of the clean rows that the budget poisons; where it is a maximum (`Budget.at_most`), no more than are within reach."""
        share = self.budget.share(len(clean))
        if not self.budget.at_most:
            return share
        try:
            reached = self.reach.writable(clean, torch.zeros(0, dtype=torch.int64))
        except Incompatible:  # `reveal` raises it again, and the run is skipped
            return share
        return min(share, int(reached.sum()) / max(1, len(clean)))

    def malicious(self, data: Dataset, rng: Key) -> Tensor:
        """Return the (M,) malicious clients, as many as the budget says, drawn at random, so a client's number reveals nothing.

        Those of a smaller share are among those of a larger one.

        Raises:
            ConfigError: a share of clients that selects none.
        """
        clients = int(data.owners.max()) + 1
        count = math.floor(self.budget.clients * clients + 1e-9)
        if self.budget.clients and not count:
            raise ConfigError(
                f"threat.budget.clients={self.budget.clients} of {clients} clients selects none; "
                f"set task.clients={math.ceil(1 / self.budget.clients)}, or threat.budget.clients={math.ceil(1e4 / clients) / 1e4:g}"
            )
        return rng.pick(torch.arange(clients), count)

    def aims(self, test: Dataset, rng: Key) -> Tensor:
        """Return (trials, targets) int64, the test rows that the attacker aims at: those of `target_ids`, or drawn without replacement.

        Raises:
            ConfigError: more targets than test rows of that class, or ids that do not fit.
        """
        if self.target_ids is not None:
            return self._named(test, self.target_ids)
        order = rng.per_row(test.ids)[:, 0].argsort(stable=True)
        among = order if self.target_class is None else order[test.labels[order] == self.target_class]
        if (count := self.trials * self.targets) > len(among):
            label = "" if self.target_class is None else f" with the label threat.target_class={self.target_class}"
            asked = f"threat.trials={self.trials}" + (f", threat.targets={self.targets}" if self.targets > 1 else "")
            raise ConfigError(f"{asked}: the task has {len(among)} test rows{label} to aim at")
        return among[:count].view(self.trials, self.targets)

    def _named(self, test: Dataset, ids: tuple[int, ...]) -> Tensor:
        """Return (trials, targets) int64, the positions of the test rows with these ids.

        Raises:
            ConfigError: another number of ids than the threat has targets, an id twice, or one that no test row of the target class has.
        """
        asked, places = f"threat.target_ids={list(ids)}", {number: place for place, number in enumerate(test.ids.tolist())}
        if len({*ids}) != self.trials * self.targets or len({*ids}) < len(ids):
            raise ConfigError(f"{asked}: give one id for each of threat.trials={self.trials} times threat.targets={self.targets} targets, none of them twice")
        for number in ids:
            if number not in places:
                raise ConfigError(f"{asked}: no test row has the id {number}; give ids of test rows")
            if self.target_class is not None and int(test.labels[places[number]]) != self.target_class:
                raise ConfigError(f"{asked}: test row {number} does not have the label threat.target_class={self.target_class}; leave one of the two out")
        return torch.tensor([places[number] for number in ids]).view(self.trials, self.targets)

    def reveal(self, task: Task, *, malicious: Tensor, targets: Dataset, fit: Fit, tune: Tune) -> Known:
        """Return what the attacker, who owns these clients, knows of the task under this threat."""
        writable = self.reach.writable(task.train, malicious)
        if len(writable) and not writable.any() and not self.budget.at_most:
            lacking = f"threat.reach: the attacker can write none of the training rows of {task.name}"
            raise Incompatible(
                f"{lacking}; change threat.reach, or choose a task with rows within its reach, such as task=world for a stage of a language model"
            )
        return Known(rows=task.train, writable=writable, budget=self.budget, targets=targets, public=task.public, fit=fit, tune=tune)


def informed(plan: Plan, facts: Mapping[str, float]) -> Plan:
    """Return the plan with the threat's facts in all fields that need one and are None.

    Args:
        plan: a frozen dataclass of plugins; those nested in it are informed as well.
        facts: by the name in the field's `metadata={"fact": NAME}`.
    """
    known = {field.name: facts[field.metadata["fact"]] for field in dataclasses.fields(plan) if "fact" in field.metadata and getattr(plan, field.name) is None}
    inner = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    nested = {name: part for name, part in inner.items() if dataclasses.is_dataclass(part) and not isinstance(part, type)}
    changed = {name: new for name, part in nested.items() if (new := informed(part, facts)) is not part}
    return dataclasses.replace(plan, **known, **changed) if known or changed else plan


def assumptions(plan: DataclassInstance, where: str) -> Iterator[tuple[str, float]]:
    """Yield the place and the value of every filled field for a fact of the threat, such as "defense.sanitize.expected_rate"."""
    for field in dataclasses.fields(plan):
        value, place = getattr(plan, field.name), f"{where}.{field.name}"
        if "fact" in field.metadata and value is not None:
            yield place, value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from assumptions(value, place)
