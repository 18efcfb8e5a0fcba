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
    """Everything that the result of a run depends on.

    Args:
        task: rows to train and test on.
        threat: what an attacker knows and may do.
        attack: what the attacker does.
        defense: what the defender does.
        learner: the recipe of the victims.
        seed: root of every random stream.
        salt: mixed into the root of the defender's streams: those of trainings, filters, repairs, screens and certificates. None: the streams
            depend on the seed alone, so anybody can repeat the run, the attacker too. "system": random numbers of the operating system,
            which are never written, so such a run cannot be repeated and shares no training with another run. torch's and numpy's generators
            use 63 bits of it for each stream and are not cryptographic. Any other text is written into the record and is not secret.
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
    """A cache of one task: most cells of a sweep use the same one.

    The task is returned again for an equal source, unless its rows were changed. Changed files are not noticed, so use one cache for one
    sweep at most.
    """

    source: Source | None = None
    task: Task | None = None

    def of(self, source: Source, store: Store) -> Task:
        """Return the task of a source, loaded or from the cache."""
        if self.task is None or source != self.source or not self.task.untouched():
            self.source = self.task = None  # only one task at a time: two may not fit into memory
            self.source, self.task = source, source.load(store)
        return self.task


def assemble(
    tree: Mapping[str, object], store: Store, *, task: Task | None = None, net: Callable[[Task], Net] | None = None, loaded: Loaded | None = None
) -> Experiment:
    """Build an experiment from a configuration.

    Args:
        tree: a composed configuration.
        store: keeps decoded pixels; its `trusted` prefixes say which classes may be built.
        task: the caller's task, in place of the configured one.
        net: makes the caller's network for a task, in place of the configured one.
        loaded: cache of the configured task.

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
        defense=informed(cast("Defense", built["defense"]), {POISON_RATE: threat.poison_rate(task.train)}),
        learner=cast("Learner", built["learner"]),
        seed=cast("int", tree["seed"]),
        salt=_salt(tree["salt"], store),
    )


def _with_clients(task: Task, tree: Mapping[str, object], store: Store) -> Task:
    """Deal the rows of the caller's task to as many clients as the configuration says, unless they have owners already."""
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
        ConfigError: an empty salt, or one that each process of a shared training would draw differently.
    """
    if asked == "":
        raise ConfigError("salt=: give a text, system, or null")
    if asked == "system" and store.alone:
        raise ConfigError("salt=system: the processes of torchrun would draw different secrets; use one process, or a text of your own")
    return None if asked is None else str(asked)


def _with_net(tree: Mapping[str, object], net: Net) -> dict[str, object]:
    """Return the tree with the caller's network in place of the configured one.

    Raises:
        ConfigError: the learner contains no network.
    """

    def swapped(node: object) -> object:
        if isinstance(node, Mapping):
            return {name: net if name == "net" and item == tree["net"] else swapped(item) for name, item in node.items()}
        return [swapped(item) for item in node] if isinstance(node, list) else node

    replaced = {name: swapped(item) for name, item in tree.items() if name != "net"}
    if replaced["learner"] == tree["learner"]:
        raise ConfigError("net: this learner trains no network of yours; choose another one, such as learner=small, or leave net out")
    return {**replaced, "net": tree["net"]}
