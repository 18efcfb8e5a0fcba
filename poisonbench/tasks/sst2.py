"""SST-2: sentences of film reviews, negative or positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.data import Task
from poisonbench.storage.store import Store
from poisonbench.tasks.texts import Columns, Texts, located, read_table

COLUMNS = Columns(text="sentence", label="label")


@dataclass(frozen=True, kw_only=True)
class Sst2(Texts):
    """The Stanford Sentiment Treebank as whole sentences with two classes: 6,920 training rows and 1,821 test rows.

    Source: Socher et al., "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank", EMNLP 2013. The files are
    `sst2_train.tsv` and `sst2_test.tsv`, with the header "sentence<TAB>label" and the labels 0 (negative) and 1 (positive), as OpenBackdoor and
    HiddenKiller distribute them.

    The 872 development rows that come with them are not read: the defender's trusted rows are split off the training rows, as in every
    task, and recipes are chosen on a part of the training rows. So whoever compares methods here still has them.

    Args:
        root: the folder of both files; variables such as $DATA are expanded.
    """

    VERSION: ClassVar[int] = 1
    root: str | None

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: a file that is missing or damaged.
        """
        train, test = (read_table(located(self.root, f"sst2_{split}.tsv"), COLUMNS, ("0", "1")) for split in ("train", "test"))
        return self.task("sst2", self.raw("sst2", train, test, ("negative", "positive")))
