"""What an option is made of, for `describe` and for the reference pages."""

import pytest

from poisonbench.commands.described import allowed, option
from poisonbench.core.errors import ConfigError


def settings(group, name):
    return {setting.name: setting for part in option(group, name).parts for setting in part.settings}


def test_an_attack_brings_the_threat_and_the_learner_that_it_is_made_for():
    found = option("attack", "alie")
    assert found.brings == {"threat": "federated_partial", "learner": "federated", "net": "tiny"}
    assert found.sets == {}
    assert [part.where for part in found.parts] == ["attack.data.goal", "attack.update"]


def test_a_defense_says_which_keys_of_other_groups_it_sets():
    assert option("defense", "dpa").sets == {"net.norm": "group"}


def test_a_key_that_takes_the_value_of_another_says_of_which():
    keys = settings("task", "digits")
    assert (keys["task.trusted"].value, keys["task.trusted"].follows) == (0.05, "split.trusted")
    assert keys["task.limit"].follows == ""
    assert settings("learner", "small")["learner.net"].follows == "net"


def test_the_keys_of_a_class_within_a_class_are_listed():
    assert settings("learner", "federated")["learner.client.epochs"].value == 2


def test_an_option_that_starts_from_another_names_it():
    assert option("attack", "backdoor").base == "badnets"
    assert option("attack", "badnets").base == ""


def test_the_comment_at_the_head_of_a_file_is_the_note():
    assert option("threat", "federated").note == "One client in five is malicious, in every round, and sees all updates."
    assert option("experiment", "trigger_size").note.startswith("How large must a patch be?")


def test_an_experiment_says_what_it_sweeps():
    assert option("experiment", "trigger_size").swept == {"attack.data.size": "1,2,3,4", "defense": "none,spectral", "seed": "0,1,2"}


def test_features_are_described_where_a_learner_takes_them():
    assert option("features", "hog").words == "learner=ridge features@learner.features=hog"
    assert settings("features", "hog")["learner.features.bins"].value == 9


def test_writers_are_described_where_an_attack_takes_them():
    assert option("writer", "one_passage").words == "attack=competing writer@attack.data.first=one_passage"
    assert settings("writer", "poisonedrag")["attack.data.first.steps"].value == 30


def test_an_unknown_option_is_one_sentence():
    with pytest.raises(ConfigError, match="nowhere"):
        option("attack", "nowhere")


@pytest.mark.parametrize(
    ("name", "told", "untold"),
    [("webscale", "reach.money=60.0, reach.choice=exact", "count"), ("nightshade", "budget.count=50", "rate"), ("sig", "budget.rate=0.05", "reach")],
)
def test_what_the_attacker_may_do_names_the_budget_that_counts_and_what_is_within_reach(name, told, untold):
    said = allowed(option("attack", name).tree["threat"])
    assert told in said
    assert untold not in said
