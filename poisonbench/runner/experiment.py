"""An experiment, and how it is built from a configuration of plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from poisonbench.config.build import build, fitted
from poisonbench.core.attack import Attack
from poisonbench.core.data import Task
from poisonbench.core.defense import Defense
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Learner
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE, Threat, informed
from poisonbench.learn.device import resolve, set_threads
from poisonbench.nets.net import Net
from poisonbench.storage.store import Store
from poisonbench.tasks.clients import Owners, dealt
from poisonbench.tasks.source import Source


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that a run depends on.

    Args:
        task: rows to train and test on.
        threat: what an attacker knows and may do.
        attack: what is done.
        defense: what is done against it.
        learner: the recipe of the victims.
        seed: root of every random stream.
        salt: mixed into the root of the defender's streams: of trainings, filters, repairs, screens and certificates. None: they come from the
            seed, so a run can be repeated, by the attacker too. "system": from the operating system's random numbers, which are never
            written; nothing that is trained under them can be repeated, or is shared with another run. torch's and numpy's
            generators take 63 bits of them for each stream and are no cryptographic ones. Any other text stands in the record and is no secret.
    """

    task: Task
    threat: Threat
    attack: Attack
    defense: Defense
    learner: Learner
    seed: int
    salt: str | None = None


@dataclass(eq=False)
class Loaded:
    """The task that was loaded last: the cells of a sweep mostly have the same one.

    It is handed out again for an equal source while its rows are what they were. Changes to its files are not noticed, so keep
    it for one sweep at most.
    """

    source: Source | None = None
    task: Task | None = None

    def of(self, source: Source, store: Store) -> Task:
        """Return the task of a source."""
        if self.task is None or source != self.source or not self.task.untouched():
            self.source = self.task = None  # one task at a time: the next may fill the memory
            self.source, self.task = source, source.load(store)
        return self.task


def assemble(
    tree: Mapping[str, object], store: Store, *, task: Task | None = None, net: Callable[[Task], Net] | None = None, loaded: Loaded | None = None
) -> Experiment:
    """Build an experiment.

    Args:
        tree: a composed configuration.
        store: keeps decoded pixels, and knows whose classes may be built.
        task: one's own task, in place of the configured one.
        net: makes one's own network for a task, in place of the configured one.
        loaded: keeps the configured task for the next experiment.

    Raises:
        PoisonbenchError: a value or a data set that cannot be used.
    """
    adopt_own_packages()
    resolve(str(tree["device"]))
    set_threads(cast("int", tree["threads"]))
    kinds = {"threat": Threat, "learner": Learner, "attack": Attack, "defense": Defense}

    def plugins(tree: Mapping[str, object]) -> dict[str, object]:
        return {name: fitted(build(tree[name], store.trusted, name), kind, name) for name, kind in kinds.items()}

    built = plugins(tree)
    source = None if task is not None else cast("Source", fitted(build(tree["task"], store.trusted, "task"), Source, "task"))
    task = _with_clients(cast("Task", task), tree, store) if source is None else (loaded or Loaded()).of(source, store)
    built = built if net is None else plugins(_with_net(tree, net(task)))
    threat = cast("Threat", built["threat"])
    return Experiment(
        task=task,
        threat=threat,
        attack=cast("Attack", built["attack"]),
        defense=informed(cast("Defense", built["defense"]), {POISON_RATE: threat.budget.share(len(task.train))}),
        learner=cast("Learner", built["learner"]),
        seed=cast("int", tree["seed"]),
        salt=_salt(tree["salt"], store),
    )


def _with_clients(task: Task, tree: Mapping[str, object], store: Store) -> Task:
    """Return one's own task with its rows dealt to as many clients as the configuration says, if they have no owners yet."""
    asked = cast("Mapping[str, object]", tree["task"])
    clients = cast("int", asked.get("clients", 1))
    if clients == 1 or int(task.train.owners.max()) > 0:
        return task
    owners = cast("Owners", fitted(build(asked["owners"], store.trusted, "owners"), Owners, "owners"))
    dealing = dealt(owners, task.train, clients, Key.root(cast("int", asked["split_seed"])).child("split").child("owners"))
    return dataclasses.replace(task, train=task.train.with_columns(task.train.columns | {"owners": dealing}))


def _salt(asked: object, store: Store) -> str | None:
    """Return the salt of the defender's draws.

    Raises:
        ConfigError: an empty one, or one that every process of a shared training would draw for itself.
    """
    if asked == "":
        raise ConfigError("salt=: give a text, system, or null")
    if asked == "system" and store.alone:
        raise ConfigError("salt=system: the processes of torchrun would draw different secrets; use one process, or a text of your own")
    return None if asked is None else str(asked)


def _with_net(tree: Mapping[str, object], net: Net) -> dict[str, object]:
    """Return the tree with one's own network wherever the configured one stands.

    Raises:
        ConfigError: it stands nowhere in the learner, which trains no network.
    """

    def swapped(node: object) -> object:
        if isinstance(node, Mapping):
            return {name: net if name == "net" and item == tree["net"] else swapped(item) for name, item in node.items()}
        return [swapped(item) for item in node] if isinstance(node, list) else node

    told = {name: swapped(item) for name, item in tree.items() if name != "net"}
    if told["learner"] == tree["learner"]:
        raise ConfigError("net: this learner trains no network of yours; choose another one, such as learner=small, or leave net out")
    return {**told, "net": tree["net"]}
