from dataclasses import dataclass
from datetime import date
from typing import ClassVar, Literal, Protocol

import pytest

from poisonbench.config.build import build, check_targets, fitted
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Learner
from poisonbench.core.reach import Reach


@dataclass(frozen=True, kw_only=True)
class Thing:
    VERSION: ClassVar[int] = 1
    size: int
    kind: Literal["white", "black"] = "white"
    widths: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    share: float | None = None
    inner: object = None


TARGET = f"{__name__}.Thing"
HERE = (f"{__name__}.",)


def test_a_tree_becomes_nested_dataclasses():
    tree = {"_target_": TARGET, "size": 3, "widths": [1, 2], "share": 1, "inner": {"_target_": TARGET, "size": 4}}
    thing = build(tree, HERE, "attack")
    assert thing == Thing(size=3, widths=(1, 2), share=1.0, inner=Thing(size=4))
    assert isinstance(thing.share, float)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"sise": 3}, r"attack.sise: Thing has no such field; did you mean size\?"),
        ({"size": "3"}, "attack.size=3: give a whole number, not text"),
        ({"size": True}, "give a whole number, not true or false"),
        ({"size": 1.5}, "give a whole number, not a fraction"),
        ({"size": 1, "kind": "whit"}, r"did you mean white\?"),
        ({"size": 1, "widths": 3}, r"attack.widths=3: give a list, such as \[1,2\]$"),
        ({"size": 1, "words": "cf"}, r"attack.words=cf: give a list, such as \[one,two\]$"),
        ({"size": 1, "widths": ["a"]}, r"attack.widths\[0\]=a: give a whole number"),
        ({"size": 1, "share": "x"}, "give a number, not text"),
        ({}, "Thing needs size"),
    ],
)
def test_a_wrong_field_is_refused_in_words(field, says):
    with pytest.raises(ConfigError, match=says):
        build({"_target_": TARGET, **field}, HERE, "attack")


@pytest.mark.parametrize("target", ["builtins.dict", "datetime.date", "pathlib.PurePath", "collections.OrderedDict", "attacksx.Mine", "poisonbench"])
def test_targets_outside_our_packages_are_refused_before_they_are_imported(target):
    with pytest.raises(ConfigError, match="is outside"):
        check_targets({"attack": {"data": [{"_target_": target}]}}, "")


def test_a_trusted_prefix_is_a_whole_package_name():
    assert "my_lab." in check_targets({"_target_": "my_lab.plugins.Mine"}, "my_lab")
    with pytest.raises(ConfigError, match="is outside"):
        check_targets({"_target_": "my_lab_too.Mine"}, "my_lab")


def test_a_class_outside_the_allowed_prefixes_is_not_imported_either():
    with pytest.raises(ConfigError, match="is outside"):
        build({"_target_": "datetime.date", "year": 1, "month": 1, "day": 1}, HERE, "attack")


class Sized(Protocol):
    size: int

    def grow(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Grown(Thing):
    def grow(self) -> int:
        return self.size + 1


def test_a_plugin_has_what_its_slot_asks_for():
    grown = Grown(size=1)
    assert fitted(grown, Sized, "attack.data") is grown
    with pytest.raises(ConfigError, match=r"attack\.data: Thing is no Sized; it has no grow"):
        fitted(Thing(size=1), Sized, "attack.data")
    with pytest.raises(ConfigError, match="date is no Sized; it has no grow, size"):
        fitted(date(2000, 1, 1), Sized | None, "attack.data")


def test_a_name_in_place_of_a_plugin_is_refused_with_its_group_or_where_there_is_none_its_class():
    with pytest.raises(ConfigError, match=r"a Learner is needed, not text; choose one of a group, as in \+learner@defense\.train\.member=small$"):
        fitted("small", Learner, "defense.train.member")
    with pytest.raises(ConfigError, match=r"threat\.reach=foo: a Reach is needed, not text; name its class with threat\.reach\._target_=CLASS$"):
        fitted("foo", Reach, "threat.reach")


def test_a_plugin_slot_cannot_be_empty():
    with pytest.raises(ConfigError, match="give a Thing, not nothing"):
        fitted(None, Thing, "defense.sanitize")


LONG = {"learner": {"net": {"widths": list(range(500))}}, "task": {"clients": 20}, "net": {"norm": "group"}}


@pytest.mark.parametrize("hint", [Sized, Sized | None, Thing, int, float, str, bool, tuple[int, ...], Literal["white", "black"]], ids=str)
@pytest.mark.parametrize("value", [LONG, [LONG] * 50, "long" * 500], ids=["mapping", "list", "text"])
def test_a_long_value_is_quoted_by_its_beginning_alone(hint, value):
    if hint is str and isinstance(value, str):
        return
    with pytest.raises(ConfigError) as refused:
        fitted(value, hint, "defense.train.member")
    assert len(str(refused.value)) < 300


def test_an_option_that_sets_more_than_the_slot_is_refused_with_what_it_sets():
    with pytest.raises(
        ConfigError, match=r"^defense\.train\.member: a Sized is needed, but what was chosen sets learner, task, net; choose one that is a Sized alone$"
    ):
        fitted(LONG, Sized | None, "defense.train.member")
