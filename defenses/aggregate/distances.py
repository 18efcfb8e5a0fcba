"""Shared code of distance-based rules: squared distances from one Gram matrix, and Krum's score.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError

COLUMNS = 2000  # not a power of two: such rows share a few cache sets; 33 ms, 37 with 2048, at 50 x 200,000


def squared_distances(rows_RP: Tensor) -> Tensor:
    """Return (R, R) float64 squared Euclidean distances, exactly symmetric, from one Gram matrix of centred rows.

    Columns are read in blocks that stay in the processor's cache, so memory beside the rows is O(R^2). Only two blocks that contain the upper
    triangle are computed.
    """
    gram = torch.zeros(len(rows_RP), len(rows_RP), dtype=torch.float64, device=rows_RP.device)
    half, share = len(rows_RP) // 2, gram.new_full((len(rows_RP),), 1 / len(rows_RP))
    for columns in rows_RP.split(COLUMNS, 1):
        part = columns.to(torch.float64, copy=True)
        part -= share @ part
        gram[:half].addmm_(part[:half], part.T)
        gram[half:, half:].addmm_(part[half:], part[half:].T)
    gram = gram.triu() + gram.triu(1).T
    sizes = gram.diagonal()
    return (sizes[:, None] + sizes[None] - 2 * gram).clamp_min(0).fill_diagonal_(0)


def krum_scores(squared_RR: Tensor, neighbours: int, *, power: int = 2, include_self: bool = False) -> Tensor:
    """Return (R,) sums over the nearest contributions.

    Args:
        squared_RR: squared distances.
        neighbours: how many are summed.
        power: power of the distance that is summed; the paper uses 2.
        include_self: count the zero distance of a contribution to itself; the paper does not.
    """
    powered = squared_RR ** (power / 2)
    ordered = powered.sort(1).values
    first = 0 if include_self else 1
    return ordered[:, first : first + neighbours].sum(1)


def assumed(own: int | None, true: int) -> int:
    """Return f: the defense's own number, or else the true number of the threat, which is oracle knowledge.

    Args:
        own: the number that the defense assumes, or None.
        true: the number of the threat.
    """
    return true if own is None else own


def borne(f: int, contributors: int, *, least: int, rule: str) -> int:
    """Return f, or the largest number that still satisfies n >= 2 f + least; it is smaller than f if updates were dropped.

    Raises:
        ConfigError: there are too few contributions for any f.
    """
    need(contributors >= least, _requirement(rule, least, contributors, 0))
    return min(f, (contributors - least) // 2)


def room(contributors: int, f: int, *, least: int, rule: str, own: bool = False) -> None:
    """Check that a rule which needs n >= 2 f + least contributions can be used in this round.

    Args:
        contributors: n.
        f: the number of malicious contributions that the rule assumes.
        least: contributions that the rule needs if f is 0.
        rule: its name.
        own: whether f is the defense's own number, not the threat's.

    Raises:
        ConfigError: there are too few contributions; the message names a value that fits.
    """
    most = (contributors - least) // 2
    if most > 0:
        remedy = f"defense.aggregate.malicious={most}" if own else f"threat.budget.clients={_share(most, contributors)}"
    else:
        remedy = f"task.clients={2 * f + least}" if own else f"task.clients={least + 2} threat.budget.clients={_share(1, least + 2)}"
    need(f <= most, f"{_requirement(rule, least, contributors, f)}; set {remedy}")


def _requirement(rule: str, least: int, contributors: int, f: int) -> str:
    return f"defense={rule} needs n >= 2 f + {least} contributions; this round has n = {contributors} with f = {f}"


def _share(malicious: int, clients: int) -> float:
    """Return the share of clients that selects this number; the number of clients is rounded down."""
    return math.ceil(1e4 * malicious / clients) / 1e4


def need(holds: bool, sentence: str) -> None:
    """Check a condition.

    Raises:
        ConfigError: the condition does not hold; the message is `sentence`.
    """
    if not holds:
        raise ConfigError(sentence)
