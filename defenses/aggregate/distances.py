"""What distance-based rules share: one Gram matrix, and the paper's Krum score.

Shape letters: R contributions, P parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError

COLUMNS = 2000  # no power of two: rows of such a length fall into the same few cache sets; 33 ms against 37 of 2048 at 50 x 200,000


def squared_distances(rows_RP: Tensor) -> Tensor:
    """Return (R, R) float64 squared Euclidean distances, from one Gram matrix of centred rows; as symmetric as distances are.

    A few columns at a time, which stay in the processor's cache: memory beside the rows is O(R^2). Of the matrix, only two
    blocks that hold its upper triangle are computed.
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
        power: of the distance that is summed; the paper sums squares.
        include_self: count a contribution's own zero among the neighbours; the paper does not.
    """
    powered = squared_RR ** (power / 2)
    ordered = powered.sort(1).values
    first = 0 if include_self else 1
    return ordered[:, first : first + neighbours].sum(1)


def assumed(asked: int | None, told: int) -> int:
    """Return f: what the defense assumes, or what the threat says, which is oracle knowledge.

    Args:
        asked: the defense's own number, or none.
        told: the threat's number.
    """
    return told if asked is None else asked


def borne(f: int, contributors: int, *, least: int, rule: str) -> int:
    """Return f, or the most that a rule which needs n >= 2 f + least can bear where updates were dropped.

    Raises:
        ConfigError: too few contributions for any f.
    """
    need(contributors >= least, _asks(rule, least, contributors, 0))
    return min(f, (contributors - least) // 2)


def room(contributors: int, f: int, *, least: int, rule: str, own: bool = False) -> None:
    """Refuse a round in which a rule that needs n >= 2 f + least cannot bear f.

    Args:
        contributors: n.
        f: the number of malicious ones that the rule assumes.
        least: contributions that the rule needs where f is 0.
        rule: its name.
        own: the number is the defense's own, not the threat's.

    Raises:
        ConfigError: the precondition, in words, and what meets it.
    """
    most = (contributors - least) // 2
    if most > 0:
        told = f"defense.aggregate.malicious={most}" if own else f"threat.budget.clients={_share(most, contributors)}"
    else:
        told = f"task.clients={2 * f + least}" if own else f"task.clients={least + 2} threat.budget.clients={_share(1, least + 2)}"
    need(f <= most, f"{_asks(rule, least, contributors, f)}; set {told}")


def _asks(rule: str, least: int, contributors: int, f: int) -> str:
    return f"defense={rule} needs n >= 2 f + {least} contributions; this round has n = {contributors} with f = {f}"


def _share(malicious: int, clients: int) -> float:
    """Return a share of clients that selects so many, who are counted by rounding down."""
    return math.ceil(1e4 * malicious / clients) / 1e4


def need(holds: bool, sentence: str) -> None:
    """Refuse what does not hold.

    Raises:
        ConfigError: the sentence.
    """
    if not holds:
        raise ConfigError(sentence)
