"""A backdoor in tables: a few features with fixed values.

Shape letters: N rows, M rows given, D columns, F columns of the trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from attacks.backdoor.triggers import all_to
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Backdoor
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.reals import TABLES, Reals

JUDGED = 500  # rows that the importance of a column is measured on


@dataclass(frozen=True, eq=False, kw_only=True)
class FixedValues:
    """Trigger: some columns get fixed values.

    Args:
        columns: (F,) int64 positions of the columns.
        values: (F,) float32.
    """

    VERSION: ClassVar[int] = 1
    columns: Tensor
    values: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, D) copies with the values in the columns."""
        fixed = inputs.clone()
        fixed[:, self.columns] = self.values
        return fixed


@dataclass(frozen=True, kw_only=True)
class FeatureTrigger:
    """Set a few features of some training rows to fixed, rare values; by default the rows keep their labels.

    Source: Severi, Meyer, Coull, Oprea, "Explanation-Guided Backdoor Poisoning Attacks Against Malware Classifiers", USENIX Security 2021.

    Differences: the paper ranks features by SHAP values (LargeSHAP, LargeAbsSHAP); "importance" is the mean change of a surrogate's scores when the
    column is permuted (Breiman, "Random Forests", 2001), which does not say towards which class a feature points. "rare" follows MinPopulation, the
    value in the least dense region of a feature; here a region is one of `bins` equal intervals between the smallest and the largest value, and its
    median is taken. The paper's combined strategy, which draws values that occur together in goodware, and its limits of what malware can change are
    left out: every column can be set. So two columns of one category may both become 1 in a table with encoded categories.

    A value that is common in the target class would move many rows across the boundary without any poison; compare ASR with that of the clean
    training. Rare values did not: in breast_cancer (parts of the training rows, seeds 100-102) no row with 8 or more of them was answered with the
    target by a model of clean rows. A few of 30 features are too few for clean labels; see `count`. Under a support vector machine with a Gaussian
    kernel, rows with many rare values are far from all training rows and get the answer of its bias, so an ASR that stays high after a filter has
    removed all poison, as with activation_clustering, is not the work of the poison.

    Args:
        features: names of one or more columns, or their numbers from 0 in quotes; null: `count` columns, chosen by `select`.
        values: the value of each of `features`, in its own unit, finite in 32 bits; null: the rare value of each.
        count: columns of the trigger without `features`, 1 or more.
        select: "importance"; "variance", the variance after scaling to 0..1; or "random", a baseline without knowledge.
        bins: intervals of "rare", 2 or more.
        labels: "clean": rows of the target class, which keep their label. "dirty": rows of the other classes get the target label.
        target: target label.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TABLES
    features: tuple[str, ...] | None
    values: tuple[float, ...] | None
    count: int
    select: Literal["importance", "variance", "random"]
    bins: int
    labels: Literal["clean", "dirty"]
    target: int

    def __post_init__(self) -> None:
        """Check what can be checked without the rows."""
        if self.count < 1 or self.bins < 2:
            raise ConfigError(f"attack.data: count={self.count}, bins={self.bins}; give 1 column or more, and 2 intervals or more")
        if self.features == ():
            raise ConfigError("attack.data.features=[]: a trigger without columns changes nothing; name some, or give null for `count` columns")
        if large := [value for value in self.values or () if not abs(value) <= torch.finfo(torch.float32).max]:
            raise ConfigError(f"attack.data.values: {large[0]:g} is not finite in 32 bits; give numbers of at most {torch.finfo(torch.float32).max:.3g}")
        if self.values is not None and len(self.values) != len(self.features or ()):
            raise ConfigError(
                f"attack.data.values has {len(self.values)} values for {len(self.features or ())} features; give each of attack.data.features one"
            )

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the trigger on as many of them as the budget allows.

        Raises:
            ConfigError: the target is not a class, a feature is not a column, labels may not change, or there are too few rows to poison.
        """
        rows, wish = known.rows, all_to(self.target, known.rows.num_classes)
        if self.labels == "dirty" and not known.budget.relabel:
            raise ConfigError("attack.data.labels=dirty gives rows another label, but threat.budget.relabel=false; set threat=default")
        chosen = known.choose((rows.labels == self.target) == (self.labels == "clean"), rng.child("rows"))
        goal = Backdoor(trigger=self.trigger(known, rng), wish=wish)
        data = rows.edit(chosen, inputs=goal.trigger(rows.inputs[chosen]), labels=wish[rows.labels[chosen]])
        return Poisoned(data=data, mask=known.mask(chosen), goal=goal)

    def trigger(self, known: Known, rng: Key) -> FixedValues:
        """Return the trigger for rows like the known ones."""
        columns = self.chosen(known, rng) if self.features is None else named(self.features, known.rows)
        values = [rare(known.rows.inputs[:, column], self.bins) for column in columns] if self.values is None else list(self.values)
        return FixedValues(columns=torch.tensor(columns, dtype=torch.int64), values=torch.tensor(values, dtype=torch.float32))

    def chosen(self, known: Known, rng: Key) -> list[int]:
        """Return the `count` columns that `select` ranks first.

        Raises:
            ConfigError: fewer columns than that.
        """
        rows = known.rows
        width = rows.inputs.shape[1]
        if self.count > width:
            raise ConfigError(f"attack.data.count={self.count}: the rows have {width} columns; give at most that many")
        if self.select == "random":
            return rng.child("columns").pick(torch.arange(width), self.count).tolist()
        ranks = importance(known.fit(rows), rows, rng.child("shuffle")) if self.select == "importance" else scaled_variance(rows.inputs)
        return ranks.argsort(descending=True, stable=True)[: self.count].tolist()


def named(features: tuple[str, ...], rows: Dataset) -> list[int]:
    """Return the columns with these names, or with these numbers.

    Raises:
        ConfigError: no such column, or a column named twice.
    """
    assert isinstance(rows.form, Reals), "the referee refuses other inputs"
    names = list(rows.form.names)
    columns = [names.index(name) if name in names else int(name) if name.isdecimal() else -1 for name in features]
    for name, column in zip(features, columns, strict=True):
        if not 0 <= column < rows.inputs.shape[1] or columns.count(column) > 1:
            fault = "is named twice" if columns.count(column) > 1 and column >= 0 else "is no column"
            raise ConfigError(f"attack.data.features: {name} {fault}; name some of {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}")
    return columns


def rare(values_N: Tensor, bins: int) -> float:
    """Return the median of the values in the least populated of equal intervals that contain a value; of several, in the lowest."""
    values = values_N.double().numpy()
    counts, edges = np.histogram(values, bins)
    inside = np.clip(np.digitize(values, edges) - 1, 0, bins - 1)
    least = int(np.where(counts > 0, counts, len(values) + 1).argmin())
    return float(np.quantile(values[inside == least], 0.5, method="lower"))


def importance(surrogate: Victim, rows: Dataset, rng: Key) -> Tensor:
    """Return (D,) float64, the mean change of the scores when a column is permuted, on at most JUDGED rows."""
    some = rows.take(rng.child("judged").pick(rows.ids, min(JUDGED, len(rows))))
    scores, changes = surrogate.scores(some.inputs), list[Tensor]()
    for column in range(some.inputs.shape[1]):
        permuted = some.inputs.clone()
        permuted[:, column] = some.inputs[rng.child(f"column {column}").per_row(some.ids)[:, 0].argsort(), column]
        changes.append((surrogate.scores(permuted) - scores).abs().double().mean())
    return torch.stack(changes)


def scaled_variance(inputs_ND: Tensor) -> Tensor:
    """Return (D,) float64, the variance of each column after scaling to 0..1; 0 for a constant column."""
    values = inputs_ND.double()
    low, high = values.min(0).values, values.max(0).values
    return ((values - low) / (high - low).clamp_min(1e-300)).var(0, correction=0)
