"""Which rows an attacker can write, and which test rows it aims at."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from poisonbench.core.errors import BudgetError, ConfigError
from poisonbench.core.keys import canonical
from poisonbench.core.reach import OWN_ROWS
from poisonbench.core.rng import Key
from poisonbench.runner.spec import spec
from poisonbench.runner.stages import Line


@dataclass(frozen=True, kw_only=True)
class FirstRows:
    """Rows with a small number, such as the pages of a domain that was for sale."""

    VERSION: ClassVar[int] = 1
    below: int

    def writable(self, data, malicious):
        return data.ids < self.below


def test_all_rows_can_be_written_or_those_of_malicious_clients(tiny):
    rows = tiny("task.clients=4").task.train
    assert OWN_ROWS.writable(rows, torch.zeros(0, dtype=torch.int64)).all()
    assert torch.equal(OWN_ROWS.writable(rows, torch.tensor([1, 3])), (rows.owners == 1) | (rows.owners == 3))


def test_an_attack_poisons_only_rows_within_reach_and_the_referee_checks_it(tiny, store):
    experiment = tiny("attack=backdoor", "threat.budget.count=5")
    near = dataclasses.replace(experiment, threat=dataclasses.replace(experiment.threat, reach=FirstRows(below=60)))
    struck = Line(experiment=near, store=store).struck()
    assert int(struck.mask.sum()) == 5
    assert int(struck.mask.nonzero().max()) < 60
    none = dataclasses.replace(experiment, threat=dataclasses.replace(experiment.threat, reach=FirstRows(below=0)))
    with pytest.raises((BudgetError, ConfigError), match="only 0 can be poisoned"):
        Line(experiment=none, store=store).struck()


def test_every_trial_has_targets_of_its_own(tiny):
    experiment = tiny("threat.trials=3", "threat.targets=2")
    aims = experiment.threat.aims(experiment.task.test, Key.root(100))
    assert aims.shape == (3, 2)
    assert len(aims.unique()) == 6
    with pytest.raises(ConfigError, match=r"threat.trials=3, threat.targets=1000: the task has \d+ test rows to aim at"):
        tiny("threat.trials=3", "threat.targets=1000").threat.aims(experiment.task.test, Key.root(100))


def test_the_usual_reach_and_one_target_are_written_as_nothing(tiny):
    experiment = tiny()
    written = {*canonical(experiment.threat), *spec(experiment)["threat"]}
    assert "trials" in written
    assert not written & {"reach", "targets", "target_class"}
