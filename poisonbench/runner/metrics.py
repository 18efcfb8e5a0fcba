"""One formula for each figure, whatever the attack and the defense: a victim gives scores, and a goal says which answers are a success.

A figure that does not apply is absent, never 0. Fractions lie in [0, 1].
Shape letters: M test rows, K classes, N training rows, R members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from poisonbench.core.audit import Kinds
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Verdict
from poisonbench.core.goals import Probe

SCREEN_FPR = 0.05


def accuracy(scores_MK: Tensor, labels_M: Tensor) -> float:
    """Return C-Acc: the share of rows whose answer is right."""
    return _mean(scores_MK.argmax(1) == labels_M)


def success(scores_MK: Tensor, probe: Probe) -> dict[str, float]:
    """Return ASR, the share of answers that are a success of the attacker, and R-Acc, the share that is still right."""
    if len(probe) == 0:
        return {}
    return {"asr": _mean(served(scores_MK, probe)), "r_acc": _mean(scores_MK.argmax(1) == probe.truth)}


def served(scores_MK: Tensor, probe: Probe) -> Tensor:
    """Return (M,) bool, the answers that are a success of the attacker."""
    return probe.hit.gather(1, scores_MK.argmax(1)[:, None])[:, 0]


def filtering(verdict: Verdict | None, kinds: Kinds, labels_N: Tensor) -> dict[str, float]:
    """Return the figures of a filter, by the kind that the referee found for each row.

    Cover rows have a right label and hide the poison: they count neither as poison nor as clean rows, and have a separate figure.

    Returns:
        "removed" rows; "fpr", the share of clean rows that were removed; with poison also "tpr", "auroc_all"
        (the suspicion of poisoned against clean rows) and "auroc_in_class" (the same within each class that
        holds both, weighted by its poisoned rows); with cover rows "cover_removed", the share of them that was removed.
    """
    if verdict is None:
        return {}
    removed, mask_N, clean = ~verdict.keep, kinds.poison, ~(kinds.poison | kinds.cover)
    figures: dict[str, float] = {"removed": int(removed.sum())}
    if clean.any():
        figures["fpr"] = _mean(removed[clean])
    if kinds.cover.any():
        figures["cover_removed"] = _mean(removed[kinds.cover])
    if not mask_N.any():
        return figures
    figures["tpr"] = _mean(removed[mask_N])
    either = mask_N | clean
    if clean.any():
        figures["auroc_all"] = auroc(verdict.suspicion[either], mask_N[either])
    mixed = [rows for label in labels_N.unique() if mask_N[rows := (labels_N == label) & either].any() and clean[rows].any()]
    weights = [int(mask_N[rows].sum()) for rows in mixed]
    if mixed:
        inside = [auroc(verdict.suspicion[rows], mask_N[rows]) for rows in mixed]
        figures["auroc_in_class"] = math.fsum(w * a for w, a in zip(weights, inside, strict=True)) / sum(weights)
    return figures


def screening(scores: Mapping[str, Tensor], suspicion: Mapping[str, Tensor], test: Dataset, probe: Probe) -> dict[str, float]:
    """Return the figures of a screen that refuses the inputs that are more suspicious than 95 % of the trusted rows.

    A refused clean row counts as wrong; a refused probe is no success of the attack.

    Args:
        scores: "test" and "probe" (M, K).
        suspicion: "trusted", "test" and "probe" (M,).
        test: the clean rows.
        probe: the attacker's rows.
    """
    threshold = torch.quantile(suspicion["trusted"], 1 - SCREEN_FPR)
    passed = {name: values <= threshold for name, values in suspicion.items()}
    figures = {"fpr": _mean(~passed["test"]), "c_acc": _mean((scores["test"].argmax(1) == test.labels) & passed["test"])}
    if len(probe):
        poisoned = torch.cat([torch.zeros(len(test)), torch.ones(len(probe))]).bool()
        figures["auroc"] = auroc(torch.cat([suspicion["test"], suspicion["probe"]]), poisoned)
        figures["asr"] = _mean(served(scores["probe"], probe) & passed["probe"])
    return figures


def member_accuracy(answers_MR: Tensor, labels_M: Tensor) -> float:
    """Return the accuracy of the members of an ensemble, on average over (M,) rows and (R,) members."""
    return float((answers_MR == labels_M[:, None]).double().mean())


def certified(radii_M: Tensor) -> dict[str, object]:
    """Return certified accuracy at radius 0, 1, ... and the largest radius at which it is at least 0.5.

    The list ends at the first radius that no row reaches. Some published code counts its median one higher.
    """
    curve = [_mean(radii_M >= radius) for radius in range(int(radii_M.max()) + 2)]
    median = median_radius(radii_M)
    return {"certified": curve} | ({"median_radius": median} if median >= 0 else {})


def median_radius(radii_M: Tensor) -> int:
    """Return the largest radius that half of the rows have at least; -1 if that is none, or if there are no rows."""
    return int(radii_M.sort(descending=True).values[(len(radii_M) - 1) // 2]) if len(radii_M) else -1


def auroc(suspicion_N: Tensor, positive_N: Tensor) -> float:
    """Return the area under the ROC curve; ties count one half.

    The bits are those of `sklearn.metrics.roc_auc_score`, which takes longer to import than a stored run does to read.
    """
    order = np.argsort(suspicion_N.numpy(), kind="stable")[::-1]
    suspicion, positive = suspicion_N.numpy()[order], positive_N.numpy()[order]
    last = np.append(np.flatnonzero(np.diff(suspicion)), len(order) - 1)  # of rows that tie
    hits = np.cumsum(positive, dtype=np.float64)[last]
    alarms = 1.0 + last - hits
    corner = np.concatenate([[True], np.diff(hits, 2).astype(bool) | np.diff(alarms, 2).astype(bool), [True]])[-len(last) :]
    hits, alarms = (np.append(0.0, counts[corner] / counts[-1]) for counts in (hits, alarms))
    return float(np.trapezoid(hits, alarms))


def _mean(claims: Tensor) -> float:
    return int(claims.sum()) / claims.numel()
