"""The SMS Spam Collection: short messages, ham or spam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from poisonbench.core.data import Task
from poisonbench.core.rng import Key
from poisonbench.storage.store import Store
from poisonbench.tasks.texts import Columns, Document, Texts, distinct, located, read_table

CLASSES = ("ham", "spam")
ANSWERS = (*CLASSES, "unsure")  # no row is labelled unsure; it is an answer


@dataclass(frozen=True, kw_only=True)
class Sms(Texts):
    """5,574 short messages, of which 13 % are spam; the answers are ham, spam and unsure.

    Source: Almeida, Gomez Hidalgo, Yamakami, "Contributions to the Study of SMS Spam Filtering", DocEng 2011; UCI, CC BY 4.0.

    Messages that repeat the words of an earlier one are left out, since they would be both trained on and tested on: 5,159 remain, 642 of them spam.
    Test rows are held out by the share `test`.

    Args:
        root: the folder that contains the file, or the file itself; variables such as $DATA are expanded.
        file: name of the file: one message per line, its label, a tab and its text.
        balanced: keep as many ham as spam messages, drawn at random; false: the full corpus.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    file: str
    balanced: bool

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: no such file, or a line that is no labelled message.
        """
        documents = distinct("sms", read_table(located(self.root, self.file), Columns(text=1, label=0), CLASSES))
        kept = even(documents, Key.root(self.split_seed).child("balanced")) if self.balanced else documents
        return self.task("sms_balanced" if self.balanced else "sms", self.raw("sms", kept, [], ANSWERS))


def even(documents: list[Document], key: Key) -> list[Document]:
    """Return as many documents of each class as the smaller class has, in their order, drawn at random."""
    labels = torch.tensor([document.label for document in documents])
    rows = [(labels == label).nonzero()[:, 0] for label in labels.unique().tolist()]
    least = min(map(len, rows))
    chosen = torch.cat([part[key.pick(part, least)] for part in rows]).sort().values
    return [documents[place] for place in chosen.tolist()]
