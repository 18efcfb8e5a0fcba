"""The same from Python: the words of the command line, with one's own tensors and network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from poisonbench.config.compose import tree_of
from poisonbench.core.errors import ConfigError
from poisonbench.runner.experiment import Places, assemble, open_store
from poisonbench.storage.record import Record
from poisonbench.trackers.save import publish, tracker_of

if TYPE_CHECKING:
    from torch import nn

    from poisonbench.core.data import Overlap, Task
    from poisonbench.tasks.own import Rows


def own_task(  # noqa: PLR0913  # all but two have a default
    *,
    train: Rows,
    test: Rows | None,
    name: str = "own",
    trusted: float = 0.05,
    public: float = 0.0,
    held_out: float = 0.0,
    duplicates: Overlap = "refuse",
) -> Task:
    """Make a task of one's own rows, as tensors, NumPy arrays, lists, or data sets of (picture, label) such as those of torchvision.

    Args:
        train: inputs and labels, or a data set. Inputs are (N, C, H, W) or (N, H, W) uint8 pixels or floats in 0..1, kept as 256 levels,
            or (N, D) floats as features; labels are (N,) integers from 0, or text.
        test: the same for the test rows; None where there are none, as for a task that only filters see.
        name: what tables and records call it.
        trusted: share of the training rows that the defender knows to be clean.
        public: share of the training rows that nobody can poison.
        held_out: share of the training rows to test on, where there are no test rows.
        duplicates: "refuse" inputs that lie in two splits, or "allow" them; the record then counts them.

    Raises:
        DataError: tensors that are not what a data set may hold, or rows that lie in two splits.
    """
    from poisonbench.tasks.own import own
    from poisonbench.tasks.source import Split

    return own(name, train=train, test=test, split=Split(limit=None, trusted=trusted, public=public, split_seed=0, test=held_out, duplicates=duplicates))


def run(
    *words: str,
    task: Task | None = None,
    net: nn.Module | Callable[[], nn.Module] | None = None,
    net_name: str | None = None,
    results_dir: str | None = None,
) -> Record:
    """Run one experiment and write its record.

    Args:
        words: as on the command line, such as "attack=backdoor", "seed=3".
        task: one's own task, instead of `task=NAME`. Of the words about the task `task.clients` and `owners` act on it, if it has no
            clients yet; all others are refused.
        net: one's own network, or a function that makes one, instead of `net=NAME`.
        net_name: says which network that is, in place of what its code and its attributes say; change it with the network.
        results_dir: where the record and the store lie; as on the command line by default.

    Returns:
        The record; `record.metrics["asr"]` is the defended attack success rate.

    Raises:
        PoisonbenchError: one sentence on what cannot be run.
    """
    _check_words(words, task=task is not None, net=net is not None)
    tree = tree_of(words) | ({"results_dir": results_dir} if results_dir else {})
    places = Places.of(tree)
    store = open_store(tree, places)
    from poisonbench.nets.own import OwnNet
    from poisonbench.runner.pipeline import run as walk

    def own_net(task: Task) -> OwnNet:
        assert net is not None
        return OwnNet(make=net, shape=tuple(task.train.inputs.shape[1:]), num_classes=task.train.num_classes, name=net_name)

    tracker = tracker_of(tree, store.trusted)
    experiment = assemble(tree, store, task=task, net=None if net is None else own_net)
    record = dataclasses.replace(walk(experiment, store), command=f"poisonbench.run({', '.join(map(repr, words))})")
    publish(record, tree, places, tracker)
    return record


def _check_words(words: Sequence[str], *, task: bool, net: bool) -> None:
    """Refuse words that say something about what is handed over as an object.

    Raises:
        ConfigError: the first of them.
    """
    for word in words:
        key = word.lstrip("+~").partition("=")[0].partition("@")[0]
        if task and key.partition(".")[0] == "task" and key.split(".")[:2] not in (["task", "clients"], ["task", "owners"]):
            raise ConfigError(f"{word}: it has no effect on a task of your own; say it in own_task(...), or leave task=... out of the call")
        if net and key.partition(".")[0] == "net":
            raise ConfigError(f"{word}: it has no effect on a network of your own; leave the word out, or net=... out of the call")
