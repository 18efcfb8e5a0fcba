"""RONI, reject on negative impact: a row is judged by what it does to a small training.

Shape letters: N rows, C candidates, T trials, M calibration rows, K answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.duplicates import marks
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Additive
from poisonbench.core.progress import track
from poisonbench.core.rng import Key


class Trial(NamedTuple):
    """One draw of trusted rows.

    Args:
        train: the small training set.
        calibration: the rows that accuracy is measured on.
        drawn: positions of the trusted rows in either.
    """

    train: Dataset
    calibration: Dataset
    drawn: Tensor


@dataclass(frozen=True, kw_only=True)
class Roni:
    """Add each row alone to small training sets of trusted rows, and drop it if the accuracy on other trusted rows falls too much on average.

    Source: Nelson, Barreno, Chi, Joseph, Rubinstein, Saini, Sutton, Tygar, Xia, "Exploiting Machine Learning to Subvert Your Spam Filter", LEET 2008:
    training sets of 20 mails, 50 mails to measure, 5 trials.

    A row is kept if its loss, on average over the trials, is at most `threshold`. The rows of a trial are drawn at random from the trusted rows, as many
    of each class. Without a fixed threshold it comes from benign rows: the trusted rows that a trial did not draw are judged like all others, and the
    threshold is the loss that all but a share `quantile` of them stay within. No knowledge of the attack is used. The verdict on a row depends on that
    row and on trusted rows only.

    A victim that can tell what one more row changes (`poisonbench.core.learner.Additive`, as that of learner=spambayes) judges thousands of rows in
    seconds. All other learners are trained once for each different row and trial.

    Differences: the paper draws the small sets from mail that may be poisoned, and measures how ham is answered. Here they are trusted rows, so that
    the attacker cannot change what rows are compared with, and all classes are measured unless `label` names one. With `label=null` a dictionary attack
    may hide: what the filter gains on spam makes up for what it loses on ham. The rule for the threshold is ours.

    Args:
        train: rows of a small training set, 2 or more (paper: 20).
        calibration: rows that accuracy is measured on, 1 or more (paper: 50).
        trials: T, number of draws, 1 or more (paper: 5).
        label: measure only on rows of this class, such as 0 for ham (paper); null: on as many rows of each class.
        threshold: largest mean loss of accuracy with which a row is kept, in [0, 1]. null: from the trusted rows.
        quantile: share of the trusted rows whose loss may be larger than the threshold, in [0, 1), if `threshold` is null.
        most_fits: largest number of trainings, 1 or more; more are refused. A victim that can tell what one row changes needs one per trial.
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    NEEDS: ClassVar[frozenset[str]] = frozenset({"trusted"})
    train: int
    calibration: int
    trials: int
    label: int | None
    threshold: float | None
    quantile: float
    most_fits: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.train < 2 or min(self.calibration, self.trials, self.most_fits) < 1:
            raise ConfigError("defense.sanitize: train is 2 or more; calibration, trials and most_fits are 1 or more")
        if not (0 <= self.quantile < 1 and (self.threshold is None or 0 <= self.threshold <= 1)):
            raise ConfigError("defense.sanitize: quantile lies in [0, 1), threshold in [0, 1]; null takes it from the trusted rows")

    def check_trusted(self, trusted: Dataset) -> None:
        """Refuse too few trusted rows.

        Raises:
            ConfigError: how many it needs.
        """
        self.draw(trusted, Key.root(0))  # any draw: the numbers of rows decide

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every row by the mean loss of accuracy that it causes; equal rows are judged once.

        Raises:
            ConfigError: too few trusted rows, or more trainings than `most_fits`.
        """
        first, places_N = different(data)
        rows, benign = data.take(first), means.trusted if self.threshold is None else means.trusted.take(first[:0])
        candidates = rows.append(benign)
        draws = [self.draw(means.trusted, rng.child(f"trial {trial}")) for trial in range(self.trials)]  # all, before anything is trained
        losses = list[Tensor]()
        for trial in track(self.trials, "trials"):
            draw = draws[trial]
            loss_C = self.losses(draw, candidates, means)
            if self.threshold is None:
                loss_C[len(rows) + draw.drawn] = torch.nan  # a row that is drawn is not judged by itself
            losses.append(loss_C)
        loss = torch.stack(losses).nanmean(0)
        limit = self.limit(loss[len(rows) :]) if self.threshold is None else self.threshold
        suspicion = loss[: len(rows)][places_N]
        return Verdict(keep=suspicion <= limit + 1e-9, suspicion=suspicion.float())  # means over trials round

    def draw(self, trusted: Dataset, rng: Key) -> Trial:
        """Draw the rows of a trial, as many of each class as there are.

        Raises:
            ConfigError: too few trusted rows.
        """
        order = rng.per_row(trusted.ids)[:, 0].argsort(stable=True)
        order = order[ranks(trusted.labels[order]).argsort(stable=True)]  # the first of each class, then the second of each, ...
        train, left = order[: self.train], order[self.train :]
        measured = left if self.label is None else left[trusted.labels[left] == self.label]
        if len(measured) < self.calibration or len(left) == self.calibration:
            kind = "" if self.label is None else f" ({int((trusted.labels == self.label).sum())} of the class {self.label})"
            raise ConfigError(
                f"defense.sanitize: train={self.train} and calibration={self.calibration} need more than the {len(trusted)} trusted rows of this task{kind}; "
                "set task.trusted to a larger share, such as 0.2, or lower them"
            )
        calibration = measured[: self.calibration]
        return Trial(trusted.take(train), trusted.take(calibration), torch.cat([train, calibration]))

    def losses(self, draw: Trial, candidates: Dataset, means: Means) -> Tensor:
        """Return (C,) float64, the accuracy that is lost by each candidate that is added to the training set.

        Raises:
            ConfigError: more trainings than `most_fits`.
        """
        victim, inputs, labels = means.fit(draw.train), draw.calibration.inputs, draw.calibration.labels
        before = right(victim.scores(inputs)[None], labels)
        if isinstance(victim, Additive):
            return torch.cat([before - right(scores, labels) for scores in victim.scores_after(candidates, inputs)])
        if (fits := self.trials * (len(candidates) + 1)) > self.most_fits:
            asked = f"{type(victim).__name__} has to be trained {fits:,} times to judge {len(candidates):,} rows in {self.trials} trials"
            raise ConfigError(f"{asked}, and defense.sanitize.most_fits={self.most_fits}; lower task.limit or defense.sanitize.trials, or raise most_fits")
        same = {"ids": torch.tensor([-1]), "owners": draw.train.owners[:1]}  # so that no draw depends on the place of a candidate
        after = list[Tensor]()
        for place in track(len(candidates), "candidates"):
            one = candidates.take(torch.tensor([place])).edit(torch.tensor([0]), **same)
            after.append(right(means.fit(draw.train.append(one)).scores(inputs)[None], labels))
        return before - torch.cat(after)

    def limit(self, losses: Tensor) -> float:
        """Return the loss that all trusted rows but `quantile` stay within; a row that was drawn in every trial has no loss (NaN)."""
        judged = losses[~losses.isnan()]
        return max(0.0, float(torch.quantile(judged, 1 - self.quantile, interpolation="higher"))) if len(judged) else 0.0


def ranks(labels_N: Tensor) -> Tensor:
    """Return (N,) int64, how many rows before each one have its label."""
    return torch.nn.functional.one_hot(labels_N).cumsum(0).gather(1, labels_N[:, None])[:, 0] - 1


def different(data: Dataset) -> tuple[Tensor, Tensor]:
    """Return the positions of the rows that differ in inputs or label, and for each of (N,) rows its place among them."""
    places = dict[tuple[bytes, int], int]()
    known = [places.setdefault(row, len(places)) for row in zip(marks(data.inputs), data.labels.tolist(), strict=True)]
    first = dict(reversed([(place, row) for row, place in enumerate(known)]))
    return torch.tensor([first[place] for place in range(len(places))]), torch.tensor(known)


def right(scores_CMK: Tensor, labels_M: Tensor) -> Tensor:
    """Return (C,) float64, the share of right answers."""
    return (scores_CMK.argmax(2) == labels_M).double().mean(1)
