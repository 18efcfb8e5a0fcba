"""(class, VERSION) -> digest of an output: a silent change of behaviour fails here with "bump VERSION"."""

import json
from pathlib import Path

import pytest
import torch

from poisonbench.commands.compose import options, tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.keys import canonical, tensor_digest
from poisonbench.core.rng import Key
from poisonbench.pipeline import Line

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def name_of(plugin: object) -> str:
    told = canonical(plugin)
    return f"{told['class']}/{told['version']}"


def check(plugin: object, digest: str) -> None:
    name = name_of(plugin)
    assert name in GOLDEN, f'add "{name}": "{digest}" to golden.json'
    assert GOLDEN[name] == digest, f"{name} gives another output than before; bump VERSION and add the new digest {digest}"


@pytest.mark.parametrize("name", [name for name in options("attack") if name != "none"])
def test_attacks_give_the_output_of_their_version(tiny, store, name):
    experiment = tiny(f"attack={name}")
    poisoned = Line(experiment=experiment, store=store).strike()
    check(experiment.attack.data, poisoned.data.digest[:16])


class Features:
    def features(self, inputs, layer="penultimate"):
        return inputs


@pytest.mark.parametrize("name", [name for name in options("defense") if name != "none"])
def test_filters_give_the_output_of_their_version(tiny, name):
    """On features of whole numbers, so that no processor's rounding decides."""
    sanitize = tiny(f"defense={name}").defense.sanitize
    draw = torch.randint(-9, 9, (400, 12), generator=Key.root(0).torch()).float()
    labels = torch.arange(400) % 4
    draw[labels == 2, 3] += 25 * (torch.arange(100) < 15)
    data = Dataset.of(draw, labels, num_classes=4)
    means = Means(trusted=data, fit=lambda data, draw=0: Features(), tune=None, truth=torch.zeros(0, dtype=torch.bool))
    check(sanitize, tensor_digest(sanitize.judge(data, means, Key.root(0)).keep)[:16])


@pytest.mark.parametrize("name", ["digits"])
def test_tasks_give_the_output_of_their_version(store, name):
    from poisonbench.build import build
    from poisonbench.core.plugins import OWN

    source = build(tree_of([f"task={name}"])["task"], OWN, "task")
    check(source, source.load(store).digest[:16])
