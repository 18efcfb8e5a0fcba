"""Checks before anything is computed: what is refused, and in which words."""

import dataclasses

import pytest

from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.runner.check import check
from poisonbench.runner.stages import Line


@pytest.mark.parametrize("name", ["gradient_matching", "bullseye_polytope", "label_flip_targeted", "focused"])
def test_an_attack_that_aims_at_one_row_is_refused_with_two_before_anything_is_computed(tiny, store, name):
    line = Line(experiment=tiny(f"attack={name}", "threat.targets=2", "task.public=0.5"), store=store)
    before = len(store.visits)
    with pytest.raises(ConfigError, match=r"threat\.targets=2: \w+ aims at one test row in each trial; set threat\.targets=1"):
        check(line)
    assert len(store.visits) == before


@pytest.mark.parametrize("place", ["learner", "threat.surrogate"])
def test_a_learner_that_cannot_read_the_task_is_refused_with_the_command_that_lists_others(tiny, store, place):
    texts, small = tiny("task=spam"), tiny().learner
    wrong = {"learner": small} if place == "learner" else {"threat": dataclasses.replace(texts.threat, surrogate=small)}
    line = Line(experiment=dataclasses.replace(texts, **wrong), store=store)
    with pytest.raises(Incompatible, match=f"^{place}: SmallCNN reads pixels, .* choose another {place} that reads tokens, `list learner` names all$"):
        check(line)


def test_too_few_trusted_rows_are_refused_before_anything_is_computed(tiny, store):
    line = Line(experiment=tiny("task=spam", "defense=roni", "task.trusted=0.02"), store=store)
    before = len(store.visits)
    with pytest.raises(ConfigError, match=r"need more than the \d+ trusted rows"):
        check(line)
    assert len(store.visits) == before


def test_a_learner_of_an_earlier_version_is_named_before_anything_is_computed(tiny, store):
    class Earlier(type(tiny().learner)):
        def restore(self, trained, like):
            return super().restore(trained, like, None)

    old = Earlier(**{field.name: getattr(tiny().learner, field.name) for field in dataclasses.fields(tiny().learner)})
    with pytest.raises(ConfigError, match=r"its restore takes \(trained, like\), this version calls restore\(trained, like, combine\)"):
        check(Line(experiment=dataclasses.replace(tiny(), learner=old), store=store))


ON_CLASSES = ("label_flip", "label_flip_targeted", "random_label", "dictionary", "focused", "pattern_whitelist", "word_trigger")


@pytest.mark.parametrize("word", [*(f"attack={name}" for name in ON_CLASSES), "defense=roni", "defense=deep_knn"])
def test_plugins_for_classes_are_skipped_on_passages_which_have_none(tiny, store, word):
    words = ["task=facts", "threat.targets=1", "threat.trials=1", *(["attack=none", "task.trusted=0.3"] if word.startswith("defense") else [])]
    line = Line(experiment=tiny(word, *words), store=store)
    with pytest.raises(
        Incompatible, match=r"works with classes, and all training rows of facts have the same one; for passages choose .* (attack=rag|defense=near_duplicate)"
    ):
        check(line)
    assert not store.visits
