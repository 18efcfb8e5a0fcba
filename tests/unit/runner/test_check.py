"""Checks before anything is computed: what is refused, and in which words."""

import pytest

from poisonbench.core.errors import ConfigError
from poisonbench.runner.check import check
from poisonbench.runner.stages import Line


@pytest.mark.parametrize("name", ["gradient_matching", "bullseye_polytope", "label_flip_targeted", "focused"])
def test_an_attack_that_aims_at_one_row_is_refused_with_two_before_anything_is_computed(tiny, store, name):
    line = Line(experiment=tiny(f"attack={name}", "threat.targets=2", "task.public=0.5"), store=store)
    before = len(store.visits)
    with pytest.raises(ConfigError, match=r"threat\.targets=2: \w+ aims at one test row in each trial; set threat\.targets=1"):
        check(line)
    assert len(store.visits) == before
