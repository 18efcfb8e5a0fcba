import pytest
import torch

from attacks.backdoor.triggers import Patch
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Backdoor
from poisonbench.core.plugins import OWN, find_class
from poisonbench.runner.stages import Repaired
from poisonbench.storage.freeze import freeze, thaw


def test_a_goal_survives_the_round_trip():
    patch = Patch(pixels=torch.full((1, 2, 2), 9, dtype=torch.uint8), mask=torch.eye(2, dtype=torch.bool), top=1, left=0)
    goal = Backdoor(trigger=patch, wish=torch.tensor([1, 1]))
    tensors = {}
    tree = freeze({"goal": goal, "numbers": (1, 2.5, None, "text")}, tensors)
    back = thaw(tree, tensors, OWN)
    assert back["numbers"] == (1, 2.5, None, "text")
    image = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    assert torch.equal(back["goal"].trigger(image), patch(image))
    assert torch.equal(back["goal"].wish, goal.wish)


def test_a_class_outside_the_trusted_prefixes_is_not_built():
    with pytest.raises(ConfigError, match="outside"):
        thaw({"class": "datetime.date", "fields": {"year": 1}}, {}, OWN)


@pytest.mark.parametrize("path", ["poisonbench.core.files.write_text", "poisonbench.core.nowhere.Thing", "poisonbench.core.files.Missing"])
def test_only_dataclasses_are_built(path):
    with pytest.raises(ConfigError):
        find_class(path, OWN)


def test_a_value_that_is_no_tree_is_refused():
    with pytest.raises(TypeError, match="cannot store"):
        freeze({1, 2}, {})


def test_a_value_of_version_0_1_is_rebuilt_by_the_class_at_its_new_path():
    found = thaw({"class": "poisonbench.line.Repaired", "fields": {"trained": None, "figures": {"mapping": {"epochs": 2.0}}}}, {}, OWN)
    assert type(found) is Repaired
    assert found.figures == {"epochs": 2.0}


def test_a_class_of_ours_that_this_version_does_not_have_is_no_question_of_trust():
    with pytest.raises(ValueError, match="another version"):
        thaw({"class": "poisonbench.nowhere.Thing", "fields": {}}, {}, OWN)
