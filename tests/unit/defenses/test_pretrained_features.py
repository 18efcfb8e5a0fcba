"""Features that no training row can change."""

import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

RIDGE = ("defense=pretrained_features", "learner@defense.train.member=ridge")
QUICK = ("defense.train.member.extractor.epochs=4", "defense.train.member.extractor.lr=0.1", "defense.train.member.head.lr=0.1")


def test_the_victim_is_the_member_on_features_of_public_rows(tiny, store):
    experiment = tiny("defense=pretrained_features", *QUICK)
    record = run(experiment, store)
    assert (record.status, record.metrics["c_acc"] > 0.8) == ("done", True)
    assert len(experiment.task.public) > 0
    line = Line(experiment=experiment, store=store)
    rows = line.strike().data
    one, two = (line.fit(line.defended, data, line.honest) for data in (rows, rows.take(torch.arange(40))))
    assert torch.equal(one.features(rows.inputs), two.features(rows.inputs))
    assert (one.scores(rows.inputs) - two.scores(rows.inputs)).abs().max() > 1e-3


def test_features_may_need_no_training_at_all(tiny, store):
    experiment = tiny(*RIDGE)
    assert run(experiment, store).metrics["c_acc"] > 0.8
    assert len(Line(experiment=experiment, store=store).experiment.task.train) > 300  # no rows are set aside


def test_a_member_that_trains_its_features_is_refused(tiny, store):
    with pytest.raises(ConfigError, match="fixed features"):
        run(tiny("defense=pretrained_features", "learner@defense.train.member=small"), store)
