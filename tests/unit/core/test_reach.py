"""Which rows an attacker can write, and which test rows it aims at."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from poisonbench.core.errors import ConfigError, Incompatible
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
    with pytest.raises(Incompatible, match="can write none of the training rows of blobs"):
        Line(experiment=none, store=store).struck()


def test_every_trial_has_targets_of_its_own(tiny):
    experiment = tiny("threat.trials=3", "threat.targets=2")
    aims = experiment.threat.aims(experiment.task.test, Key.root(100))
    assert aims.shape == (3, 2)
    assert len(aims.unique()) == 6
    with pytest.raises(ConfigError, match=r"threat.trials=3, threat.targets=1000: the task has \d+ test rows to aim at"):
        tiny("threat.trials=3", "threat.targets=1000").threat.aims(experiment.task.test, Key.root(100))


def test_named_targets_are_those_of_the_trials_in_their_order(tiny):
    experiment = tiny("threat.trials=2", "threat.targets=2", "threat.target_ids=[7,3,9,1]")
    test = experiment.task.test
    assert test.ids[experiment.threat.aims(test, Key.root(100))].tolist() == [[7, 3], [9, 1]]
    turned = test.take(torch.arange(len(test)).flip(0))
    assert turned.ids[experiment.threat.aims(turned, Key.root(101))].tolist() == [[7, 3], [9, 1]]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["threat.target_ids=[1,2]"], r"threat\.target_ids=\[1, 2\]: give one id for each of threat\.trials=1 times threat\.targets=1 targets"),
        (["threat.target_ids=[1,1]", "threat.targets=2"], "none of them twice"),
        (["threat.target_ids=[1,1]"], "none of them twice"),
        (["threat.target_ids=[]"], "give one id for each"),
        (["threat.target_ids=[100000]"], "no test row has the id 100000; give ids of test rows"),
        (["threat.target_ids=[0]", "threat.target_class=3"], r"test row 0 does not have the label threat\.target_class=3; leave one of the two out"),
    ],
)
def test_named_targets_that_do_not_fit_are_refused(tiny, words, reason):
    experiment = tiny(*words)
    assert int(experiment.task.test.labels[0]) != 3
    with pytest.raises(ConfigError, match=reason):
        experiment.threat.aims(experiment.task.test, Key.root(100))


def test_the_usual_reach_and_one_target_are_written_as_nothing(tiny):
    experiment = tiny()
    written = {*canonical(experiment.threat), *spec(experiment)["threat"]}
    assert "trials" in written
    assert not written & {"reach", "targets", "target_class", "target_ids"}
