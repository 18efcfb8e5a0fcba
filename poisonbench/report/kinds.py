"""The kinds of runs, one tab of the leaderboard each. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from poisonbench.core.trees import value_at
from poisonbench.storage.record import Record


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One tab of the leaderboard.

    Args:
        name: in addresses and in the CSV file.
        title: of the tab.
        about: what the reader finds there, in one or two sentences.
        slots: dotted names of slots in the specification. A record belongs here if it has one of them.
    """

    name: str
    title: str
    about: str
    slots: tuple[str, ...] = ()


KINDS = (  # the tabs from left to right; a new kind is a new entry
    Kind(
        name="data",
        title="Data attacks",
        about="The attacker changes or adds training rows. The defender filters rows, changes the training, repairs the model or refuses inputs.",
    ),
    Kind(
        name="training",
        title="Outsourced training",
        about="The attacker runs the training and hands over a model. The defender can only repair the model or refuse inputs.",
        slots=("attack.train",),
    ),
    Kind(
        name="federated",
        title="Federated attacks",
        about="Some clients of federated learning are malicious. The server combines the updates by a robust rule, or repairs the model afterwards.",
        slots=("learner.client", "attack.update", "defense.aggregate"),
    ),
    Kind(
        name="certificates",
        title="Certificates",
        about="The defense proves that an answer stays correct for up to a number of changes, the radius. Each heading says which changes are counted.",
        slots=("defense.certify",),
    ),
)


def kind_of(record: Record) -> Kind:
    """Return the last kind of the list whose slots the record has; the first kind takes all others."""
    return next((kind for kind in reversed(KINDS) if any(value_at(record.spec, slot.split(".")) is not None for slot in kind.slots)), KINDS[0])
