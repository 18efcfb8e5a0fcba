"""A tree of plain values to an experiment; the last place that knows a configuration."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from poisonbench.config.build import build, check_targets, fitted
from poisonbench.core.errors import ConfigError

if TYPE_CHECKING:
    from poisonbench.core.data import Task
    from poisonbench.nets.net import Net
    from poisonbench.runner.pipeline import Experiment
    from poisonbench.storage.store import Store
    from poisonbench.tasks.source import Source

HOME = Path(__file__).parent.parent.parent


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a run writes.

    Args:
        results: holds `records/*.json` and `store/`.
        published: the clone's `results/records`, where published records go.
    """

    results: Path
    published: Path

    @classmethod
    def of(cls, tree: Mapping[str, object]) -> Places:
        """Return the places that a configuration names; in a clone the default is `results/local`.

        Raises:
            ConfigError: a folder that cannot be written.
        """
        in_clone = Path.cwd() == HOME.resolve() and (HOME / "pyproject.toml").is_file()
        asked = tree["results_dir"]
        default = Path("results/local") if in_clone else Path("results")
        results = default if asked is None else Path(os.path.expandvars(str(asked))).expanduser()
        nearest = next(parent for parent in (results.absolute(), *results.absolute().parents) if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise ConfigError(f"results_dir={results}: cannot be written; name a folder that can")
        return cls(results=results, published=Path("results/records"))


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


def adopt_own_packages() -> None:
    """Import our `attacks` and `defenses`, whatever lies in the working directory.

    Raises:
        ConfigError: another package of that name is already imported.
    """
    for name in ("attacks", "defenses"):
        home = (HOME / name).resolve()
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, home / "__init__.py", submodule_search_locations=[str(home)])
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        elif str(home) not in [str(Path(path).resolve()) for path in sys.modules[name].__path__]:
            raise ConfigError(f"a package called {name} that is not poisonbench's is already imported; rename it or start from another folder")


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
    from poisonbench.core.attack import Attack
    from poisonbench.core.defense import Defense
    from poisonbench.core.learner import Learner
    from poisonbench.core.threat import POISON_RATE, Threat, informed
    from poisonbench.learn.device import resolve, set_threads
    from poisonbench.runner.pipeline import Experiment
    from poisonbench.tasks.source import Source

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
    from poisonbench.core.rng import Key
    from poisonbench.tasks.clients import Owners, dealt

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


def open_store(tree: Mapping[str, object], places: Places) -> Store:
    """Return the store of these places; refuses a configuration that names classes outside the trusted prefixes.

    Raises:
        ConfigError: such a class.
    """
    trusted = check_targets(tree, str(tree["trust"]))
    from poisonbench.storage.store import Store

    return Store(places.results / "store", trusted, alone="RANK" in os.environ)  # torchrun's processes train one victim together
