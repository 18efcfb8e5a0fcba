"""Label flips: wrong labels on untouched inputs.

Shape letters: N rows, K classes, R rows chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import Degrade
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known


@dataclass(frozen=True, kw_only=True)
class LabelFlip:
    """Give wrong labels to as many training rows as the budget allows.

    Source: "pair" (y + 1 mod K) and "uniform" (any other label, with equal probability) are the noise models of Han et al., "Co-teaching", NeurIPS
    2018. "class_targeted" flips the rows of one class to one other label. "loss_ranked" follows Xiao, Xiao, Eckert, "Adversarial Label Flips Attack
    on Support Vector Machines", ECAI 2012: it flips the rows with the largest loss(x, wrong) - loss(x, y) of a surrogate, where `wrong` is the label
    that the surrogate finds least likely.

    Differences: in "loss_ranked" the paper's surrogate is an SVM that is retrained while flips are chosen. Here it is one network, trained once on
    the clean rows.

    Args:
        mode: "pair", "uniform", "class_targeted" or "loss_ranked".
        source: class whose rows are flipped, for "class_targeted".
        target: new label of these rows, for "class_targeted".
    """

    VERSION: ClassVar[int] = 1
    SEVERAL_CLASSES: ClassVar[bool] = True
    mode: Literal["pair", "uniform", "class_targeted", "loss_ranked"]
    source: int
    target: int

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with wrong labels on as many of them as the budget allows.

        Raises:
            ConfigError: `source` or `target` is not a class, or there are too few rows to flip.
        """
        chosen, labels = self._ranked(known) if self.mode == "loss_ranked" else self._drawn(known, rng)
        return Poisoned(data=known.rows.edit(chosen, labels=labels), mask=known.mask(chosen), goal=Degrade())

    def _drawn(self, known: Known, rng: Key) -> tuple[Tensor, Tensor]:
        """Return (R,) rows and their (R,) new labels, chosen at random."""
        rows, kinds = known.rows, known.rows.num_classes
        if not (0 <= self.source < kinds and 0 <= self.target < kinds and self.source != self.target):
            raise ConfigError(f"attack.data: source={self.source}, target={self.target}; give two of the classes 0 to {kinds - 1}")
        wanted = rows.labels == self.source if self.mode == "class_targeted" else torch.ones(len(rows), dtype=torch.bool)
        chosen = known.choose(wanted, rng.child("rows"))
        shifts = {
            "pair": torch.ones(len(chosen), dtype=torch.int64),
            "uniform": 1 + (rng.child("labels").per_row(rows.ids[chosen])[:, 0] * (kinds - 1)).long(),
            "class_targeted": torch.full((len(chosen),), self.target - self.source),
        }
        return chosen, (rows.labels[chosen] + shifts[self.mode]) % kinds

    def _ranked(self, known: Known) -> tuple[Tensor, Tensor]:
        """Return (R,) rows and their (R,) new labels, chosen by the surrogate's loss."""
        count, rows = known.budget.rows(len(known.rows)), known.rows
        pool = known.pool(torch.ones(len(rows), dtype=torch.bool), count)
        if count == 0:
            return pool[:0], rows.labels[:0]
        labels, costs = costliest(known.fit(rows).scores(rows.inputs[pool]), rows.labels[pool])
        worst = costs.argsort(descending=True, stable=True)[:count]
        return pool[worst], labels[worst]


def costliest(scores_NK: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row (N,) the least likely wrong label and (N,) by how much that label raises the loss."""
    own = torch.nn.functional.one_hot(labels_N, scores_NK.shape[1]).bool()
    wrong = scores_NK.masked_fill(own, float("inf")).min(1)
    return wrong.indices, scores_NK.gather(1, labels_N[:, None])[:, 0] - wrong.values  # the normalising term of the softmax cancels
