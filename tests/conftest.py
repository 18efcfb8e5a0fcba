"""What tests share: one tiny experiment on made-up images, trained in under a second."""

from __future__ import annotations

import dataclasses

import pytest

from poisonbench.assemble import adopt_own_packages, assemble
from poisonbench.commands.compose import tree_of
from poisonbench.pipeline import Experiment
from poisonbench.store import Store

TINY = ("task=blobs", "net.widths=[8,16]", "net.depths=[1,1]", "learner.epochs=4", "learner.batch_size=32", "learner.lr=0.1", "threads=1")


@pytest.fixture(scope="session", autouse=True)
def _own_packages() -> None:
    adopt_own_packages()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tiny(store):
    """Return a function from words and replaced fields to an experiment on blobs."""

    def make(*words: str, **fields: object) -> Experiment:
        experiment = assemble(tree_of([*TINY, *words]), store)
        return dataclasses.replace(experiment, **fields)

    return make
