"""Every YAML of the registry builds, lists every field, and states its source."""

import inspect
import typing
from dataclasses import fields, is_dataclass
from functools import reduce
from importlib import import_module
from operator import getitem
from typing import ClassVar

import pytest
import yaml

from poisonbench.commands.described import WITHIN
from poisonbench.config.build import build, targets
from poisonbench.config.compose import CONFIGS, options, tree_of
from poisonbench.core.plugins import HOME, OWN, find_class

GROUPS = ("owners", "attack", "defense", "task", "net", "learner", "tracker", "features", "retriever", "reader", "writer")
ENTRIES = [(group, name) for group in GROUPS for name in options(group)]
PACKAGES = {"attack": "attacks", "defense": "defenses"}
DOCUMENTED = ("attacks.", "defenses.", "poisonbench.retrieval.")  # packages whose plugins name a version and describe every field


def chosen(group, name):
    """Return the part of a run that an option is, as plain values."""
    first, place = WITHIN.get(group, ("", group))
    tree = tree_of(["results_dir=results/local", *([first, f"{group}@{place}={name}"] if first else [f"{group}={name}"])])
    return reduce(getitem, place.split("."), tree)


def nodes(tree):
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield tree
        for item in tree.values():
            yield from nodes(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from nodes(item)


@pytest.mark.parametrize(("group", "name"), ENTRIES)
def test_a_yaml_lists_every_field_of_its_plugin_and_builds(group, name):
    tree = chosen(group, name)
    for node in nodes(tree):
        kind = find_class(node["_target_"], OWN)
        slots = kind.__module__ in ("poisonbench.core.attack", "poisonbench.core.defense")
        listed, wanted = set(node) - {"_target_"}, {field.name for field in fields(kind)}
        assert listed <= wanted if slots else listed == wanted
    assert build(tree, OWN, group) is not None


@pytest.mark.parametrize(("group", "name"), ENTRIES)
def test_a_plugin_is_a_frozen_documented_and_versioned_dataclass(group, name):
    for path in targets(chosen(group, name)):
        kind = find_class(path, OWN)
        assert kind.__dataclass_params__.frozen
        documented = inspect.getdoc(kind) or ""
        if kind.__module__.startswith(DOCUMENTED):
            assert "VERSION" in vars(kind)
            assert typing.get_type_hints(kind)["VERSION"] == ClassVar[int]
        if kind.__module__.startswith(("attacks.", "defenses.")):
            assert kind.__module__.endswith("random_drop") or "Source:" in documented
        for field in fields(kind):
            if kind.__module__.startswith(DOCUMENTED):
                assert f"{field.name}: " in documented or f"{field.name}:" in documented


@pytest.mark.parametrize("group", list(PACKAGES))
def test_every_plugin_file_is_in_the_registry(group):
    listed = {path for name in options(group) for path in targets(tree_of([f"{group}={name}"])[group])}
    modules = {path.rpartition(".")[0] for path in listed}
    for file in (HOME / PACKAGES[group]).glob("*/*.py"):
        module = ".".join(file.relative_to(HOME).with_suffix("").parts)
        source = file.read_text()
        if file.name != "__init__.py" and any(f"def {verb}(" in source for verb in ("poison", "craft", "judge", "repair", "certify", "suspicion")):
            assert module in modules


def test_every_retriever_and_reader_is_in_the_registry():
    listed = {path for group in ("retriever", "reader") for name in options(group) for path in targets(chosen(group, name))}
    modules = [import_module(f"poisonbench.retrieval.{file.stem}") for file in (HOME / "poisonbench" / "retrieval").glob("*.py") if file.stem != "__init__"]
    kinds = {kind for module in modules for kind in vars(module).values() if is_dataclass(kind) and hasattr(kind, "with_public")}
    kinds = {path for kind in kinds if (path := f"{kind.__module__}.{kind.__name__}").startswith("poisonbench.retrieval.")}
    assert {"poisonbench.retrieval.tfidf.Tfidf", "poisonbench.retrieval.support.Support"} <= kinds
    assert kinds <= listed


def test_every_experiment_composes():
    for name in options("experiment"):
        assert tree_of([f"+experiment={name}"])["attack"] is not None


def test_the_schema_and_the_configuration_hold_the_same_keys():
    from poisonbench.config.schema import BudgetKeys, Keys
    from poisonbench.core.threat import Budget

    top = yaml.safe_load((CONFIGS / "config.yaml").read_text())
    groups = {next(iter(entry)) for entry in top["defaults"] if isinstance(entry, dict) and not next(iter(entry)).startswith("override")}
    first = {"split"}  # its values stand in the schema alone: config.yaml comes last and would undo what a learner says of them
    assert groups | (top.keys() - {"defaults", "hydra"}) | first == {field.name for field in fields(Keys)}
    assert not first & top.keys()
    assert {field.name for field in fields(Budget)} == {field.name for field in fields(BudgetKeys)} - {"_target_"}
    assert is_dataclass(Keys)
