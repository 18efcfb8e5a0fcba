"""Time to an accuracy: a whole training with `quick`, against 100 projected epochs of PreAct-ResNet-18 in the plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks._options import Options
from benchmarks._plain import train
from benchmarks._setting import empty_rows, setting
from benchmarks._timing import seconds
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key, seeded
from poisonbench.learn.device import resolve
from poisonbench.nets.resnet import PreActResNet18
from poisonbench.report.benchmarks import Comparison
from poisonbench.storage.store import Store
from poisonbench.tasks.images import TorchvisionSet
from poisonbench.tasks.source import stratified

EPOCHS, SAMPLE = 100, 1280


def measure(options: Options, *, held_out: int = 5000) -> Iterator[Comparison]:
    """Yield the comparison; accuracy is measured on held-out training rows, seed 100.

    Raises:
        ConfigError: there is no folder with CIFAR-10.
    """
    if options.data is None:
        raise ConfigError("benchmark accuracy: give --data, a folder that contains cifar10")
    local = Path(__file__).parent.parent / "results" / "local" / "store"
    root = str(options.data / "cifar10")
    task = TorchvisionSet(name="cifar10", root=root, download=False, limit=None, trusted=0.0, public=0.0, split_seed=0).load(Store(local))
    held, rest = stratified(task.train, held_out, Key.root(100))
    rows = task.train.take(rest)
    ours = setting("learner=quick", data=(rows.inputs, rows.labels))
    victims = []
    spent = seconds(lambda: victims.append(ours.learner.fit(ours.data, ours.combine, Key.root(100))))
    right = victims[0].scores(task.train.inputs[held]).argmax(1) == task.train.labels[held]
    with seeded(Key.root(100)):
        net = PreActResNet18(pool="average", norm="batch").build(empty_rows((3, 32, 32), 10)).net.to(resolve("auto"))
    some = torch.arange(SAMPLE)
    plain = seconds(lambda: train(net, rows.inputs[some], rows.labels[some], batch_size=128, workers=2))
    accuracy = float(right.float().mean())
    yield Comparison(
        work=f"CIFAR-10, {len(rows)} rows, a whole training",
        ours="learner=quick",
        alternative=f"{EPOCHS} epochs of PreAct-ResNet-18 in the plain loop",
        unit="s",
        ours_cost=(spent,),
        alternative_cost=(plain * EPOCHS * len(rows) / SAMPLE,),
        note=f"accuracy of ours on {held_out} held-out training rows {100 * accuracy:.1f} %; the alternative is projected from {SAMPLE} rows",
        facts={"accuracy": accuracy},
    )
