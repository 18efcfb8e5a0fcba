import dataclasses

import pytest
import torch
from torch import nn

from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.learn.averaging import Lookahead
from poisonbench.runner.pipeline import Line


def walk(every: int, share: float = 0.5, steps: int = 5) -> list[float]:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    slow = Lookahead(module, every, share)
    seen = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            module.weight += 1.0
        slow.follow(step, last=step == steps)
        seen.append(module.weight.item())
    return seen


def test_weights_come_back_half_of_the_way_every_second_step_and_at_the_end():
    # from 0: 1, 2 -> 1; then 2, 3 -> 2; then 3 -> 2.5 as the training ends
    assert walk(2) == [1.0, 1.0, 2.0, 2.0, 2.5]


def test_a_whole_share_or_none_is_plain_training():
    assert walk(2, share=1.0) == walk(0) == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_weights_that_are_not_learned_are_left_alone():
    module = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    assert len(Lookahead(module, 2).slow) == 1


def test_the_training_loop_averages_when_asked(tiny, store):
    experiment = tiny()
    data, honest = experiment.task.train, Line(experiment=experiment, store=store).honest
    plain, averaged = (dataclasses.replace(experiment.learner, lookahead=every).fit(data, honest, Key.root(0)).state() for every in (0, 5))
    assert any(not torch.equal(plain[name], averaged[name]) for name in plain)


@pytest.mark.parametrize("change", [{"lookahead": -1}, {"lookahead": 5, "stack": "grouped"}])
def test_what_cannot_be_averaged_is_refused(change, tiny):
    with pytest.raises(ConfigError, match="lookahead"):
        dataclasses.replace(tiny().learner, **change)
