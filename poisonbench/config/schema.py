"""Types of the keys that every run has. Standard library only; not frozen, since a frozen node cannot be overridden."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from poisonbench.core.errors import ConfigError

SEEDS = 10**15  # JSON readers keep whole numbers up to here


@dataclass
class BudgetKeys:
    """How much an attacker may change; see poisonbench.core.threat.Budget."""

    _target_: str = "poisonbench.core.threat.Budget"
    rate: float = 0.05
    count: int | None = None
    norm: str | None = None
    limit: float | None = None
    relabel: bool = True
    inject: bool = False
    clients: float = 0.0
    at_most: bool = False


@dataclass
class ThreatKeys:
    """What an attacker knows and may do; see poisonbench.core.threat.Threat."""

    _target_: str = "poisonbench.core.threat.Threat"
    budget: BudgetKeys = field(default_factory=BudgetKeys)
    surrogate: Any = None
    trials: int = 1
    rounds: list[int] | None = None
    omniscient: bool = True
    target_class: int | None = None
    targets: int = 1
    reach: Any = None
    target_ids: list[int] | None = None


@dataclass
class SplitKeys:
    """Shares of a task's rows, as the learner needs them; the keys of the same names under `task` win. See poisonbench.tasks.source.Split."""

    trusted: float = 0.05
    public: float = 0.0
    clients: int = 1


@dataclass
class Keys:
    """The top-level keys of every configuration; the types inside a group are those of its plugin's dataclass."""

    seed: int = 0
    salt: str | None = None
    device: str = "auto"
    threads: int = 0
    results_dir: str | None = None
    publish: bool = False
    lineage: bool = False
    workers: int = 1
    cell_minutes: float | None = None
    engine: Any = None
    sweep: str | None = None
    trust: str = ""
    split: SplitKeys = field(default_factory=SplitKeys)
    owners: Any = None
    task: Any = None
    net: Any = None
    retriever: Any = None
    reader: Any = None
    learner: Any = None
    threat: ThreatKeys = field(default_factory=ThreatKeys)
    tracker: Any = None
    attack: Any = None
    defense: Any = None


def check_seed(seed: int) -> None:
    """Refuse a seed that a record cannot hold.

    Raises:
        ConfigError: a negative one, or one that is too large.
    """
    if not 0 <= seed < SEEDS:
        raise ConfigError(f"seed={seed}: give a whole number from 0 to {SEEDS - 1}")
