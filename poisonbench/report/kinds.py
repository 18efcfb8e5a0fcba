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
        forms: of the inputs, such as "tokens". A record belongs here if its task has one of them.
    """

    name: str
    title: str
    about: str
    slots: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()


KINDS = (  # the tabs from left to right; a new kind is a new entry
    Kind(
        name="data",
        title="Data attacks",
        about="The attacker changes or adds training rows. The defender filters rows, changes the training, repairs the model or refuses inputs.",
    ),
    Kind(
        name="text",
        title="Texts",
        about="The training rows are texts: reviews with a sentiment, or mail that is ham or spam. The attacker adds words or whole texts.",
        forms=("tokens",),
    ),
    Kind(
        name="tables",
        title="Tables",
        about="The training rows are rows of a table. The attacker flips labels or sets some columns to chosen values.",
        forms=("reals",),
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
        name="retrieval",
        title="Retrieval",
        about="The training rows are passages that a search finds for a question, or the memory of an agent. The attacker adds passages.",
        slots=("learner.retriever",),
    ),
    Kind(
        name="certificates",
        title="Certificates",
        about="The defense proves that an answer stays correct for up to a number of changes, the radius. Each heading says which changes are counted.",
        slots=("defense.certify",),
    ),
)


def kind_of(record: Record) -> Kind:
    """Return the last kind of the list of which the record has a slot or the form; the first kind takes all others."""
    form = value_at(record.spec, ["task", "form"])
    fitting = [kind for kind in KINDS if form in kind.forms or any(value_at(record.spec, slot.split(".")) is not None for slot in kind.slots)]
    return fitting[-1] if fitting else KINDS[0]
