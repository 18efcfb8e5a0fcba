"""What counts as an attacker's success: which of the K answers, on which inputs.

Shape letters: M probed rows, K classes (answers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from poisonbench.core.ask import Scores
from poisonbench.core.data import Dataset
from poisonbench.core.rng import Key

if TYPE_CHECKING:
    from poisonbench.core.learner import Victim


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """Inputs on which an attack is judged. ASR is the mean of hit[i, answer_i], R-Acc of answer == truth.

    The referee checks it against the task (`poisonbench.core.audit.audit_probe`).

    Args:
        rows: (M,) int64, positions of the test rows that are probed, each at most once.
        inputs: (M, ...) in the form of the task's inputs.
        truth: (M,) int64, the right answers: the labels of those test rows.
        hit: (M, K) bool, the answers that count as success; never the right one.
        ask: how the victim is asked; None: as the test rows are.
        targets: positions of the test rows that are targets themselves, all of them targets of the threat; C-Acc leaves them out.
    """

    rows: Tensor
    inputs: Tensor
    truth: Tensor
    hit: Tensor
    ask: Scores | None = None
    targets: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        """Count the probed rows."""
        return len(self.truth)

    def asked(self, test: Dataset) -> Scores:
        """Return how the victim is asked about these rows."""
        return test.ask.take(self.rows) if self.ask is None else self.ask


class Goal(Protocol):
    """The attacker's criterion of success, separate from the attack, as a frozen dataclass of tensors and numbers."""

    def probe(self, test: Dataset) -> Probe:
        """Build the inputs to be judged from test rows."""
        ...

    def measure(self, victim: Victim, test: Dataset, rng: Key) -> Mapping[str, float]:
        """Return figures that are not ASR and R-Acc; empty where there are none. The record stores them under "goal".

        Args:
            victim: to measure.
            test: the task's test rows.
            rng: for figures that need random draws.
        """
        ...

    def compare(self, figures: Mapping[str, float], baseline: Mapping[str, float]) -> Mapping[str, float]:
        """Return figures that compare a victim with the one trained on clean rows; empty where ASR is enough."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoGoal:
    """No goal: the probe is empty, so every attack metric is absent. Base class of the other goals."""

    VERSION: ClassVar[int] = 1

    def probe(self, test: Dataset) -> Probe:
        """Return no rows."""
        none = torch.zeros(0, dtype=torch.int64)
        return Probe(rows=none, inputs=test.inputs[:0], truth=test.labels[:0], hit=torch.zeros(0, test.num_classes, dtype=torch.bool))

    def measure(self, victim: Victim, test: Dataset, rng: Key) -> Mapping[str, float]:
        """Return nothing: the answers are enough."""
        return {}

    def compare(self, figures: Mapping[str, float], baseline: Mapping[str, float]) -> Mapping[str, float]:
        """Return nothing: ASR is enough."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Degrade(NoGoal):
    """Make the model worse on all rows: measured as the C-Acc lost against the baseline. There is no ASR."""

    VERSION: ClassVar[int] = 1

    def compare(self, figures: Mapping[str, float], baseline: Mapping[str, float]) -> Mapping[str, float]:
        """Return "c_acc_lost", in [-1, 1]."""
        return {"c_acc_lost": baseline["c_acc"] - figures["c_acc"]}


@dataclass(frozen=True, eq=False, kw_only=True)
class Flip(NoGoal):
    """Make the model answer chosen, unchanged test rows with a wished label.

    Args:
        ids: (T,) int64 ids of the targets among the test rows.
        wish: (T,) int64, the wished answer for each.
    """

    VERSION: ClassVar[int] = 1
    ids: Tensor
    wish: Tensor

    def probe(self, test: Dataset) -> Probe:
        """Return the targets."""
        rows = (test.ids[None] == self.ids[:, None]).nonzero()[:, 1]
        assert len(rows) == len(self.ids), "a target is a test row"
        hit = torch.nn.functional.one_hot(self.wish, test.num_classes).bool()
        return Probe(rows=rows, inputs=test.inputs[rows], truth=test.labels[rows], hit=hit, targets=rows)


class Trigger(Protocol):
    """A change of inputs that the attacker can make at test time, as a frozen dataclass."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return triggered copies of (M, ...) inputs as the data set stores them, same shape and dtype."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Backdoor(NoGoal):
    """Make the model answer triggered rows with the label that the attacker wishes for their true label.

    Only rows whose true label is not the wished one are probed: a clean model answers the others "with
    the target" without any attack, which some published code counts as success.

    Args:
        trigger: the change made to test rows.
        wish: (K,) int64, the wished answer for each true label.
    """

    VERSION: ClassVar[int] = 1
    trigger: Trigger
    wish: Tensor

    def probe(self, test: Dataset) -> Probe:
        """Put the trigger on every test row whose label is not the wished one."""
        wished = self.wish[test.labels]
        rows = (wished != test.labels).nonzero()[:, 0]
        hit = torch.nn.functional.one_hot(wished[rows], test.num_classes).bool()
        return Probe(rows=rows, inputs=self.trigger(test.inputs[rows]), truth=test.labels[rows], hit=hit)
