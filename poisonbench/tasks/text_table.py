"""Your own texts: a table with a column of texts and a column of labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from poisonbench.core.data import Task
from poisonbench.core.errors import DataError
from poisonbench.forms.tokens import words_of
from poisonbench.storage.store import Store
from poisonbench.tasks.csv import classes, label_of
from poisonbench.tasks.sheet import Sheet, listed, opened
from poisonbench.tasks.source import UNLABELLED, Put, check_unlabelled, copied
from poisonbench.tasks.texts import Document, Texts
from poisonbench.tasks.writing import Table, write_table

TEXT = ("text", "sentence", "message", "review", "content", "document", "body")  # usual names of a column of texts


@dataclass(frozen=True, kw_only=True)
class TextTable(Texts):
    """Texts of a CSV or TSV file in UTF-8 with a header, whose cells may be quoted, of JSON lines, or of Parquet files.

    Args:
        root: the file, or a folder of train*.parquet and test*.parquet; variables such as $DATA are expanded.
        text: column of the texts; None finds it by its name, such as text, sentence or message.
        label: column of the classes; None finds it by its name, such as label, class or target.
        test_file: a second file with the test rows, in place of those that `test` holds out; None for none.
        unlabelled: the texts have no labels; all rows get one class.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    text: str | None
    label: str | None
    test_file: str | None
    unlabelled: bool = field(default=False, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Check that labels are not both named and left out."""
        super().__post_init__()
        check_unlabelled(self.unlabelled, self.label)

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: a file that cannot be read as such a table; the message names the file, the line and the column.
        """
        sheet, tested = opened(self.root, self.test_file)
        names = (UNLABELLED,) if self.unlabelled else classes(sheet, label_of(sheet, self.label))
        test = [] if tested is None else self.documents(tested, names)
        test = [document._replace(name=name) for document, name in zip(test, tested.names_with_file if tested else (), strict=True)]
        split = dataclasses.replace(self, test=0.0) if test else self
        return split.task(sheet.file.stem, self.raw(sheet.file.stem, self.documents(sheet, names), test, names))

    def kept(self, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
        """Write the table without some rows; see `Split.kept`."""
        return write_table(Table(opened(self.root, None)[0], self.root, self.test_file), dropped, out, put)

    def text_of(self, sheet: Sheet) -> str:
        """Return the column of the texts.

        Raises:
            DataError: there is no such column, or several could be meant.
        """
        found = [name for name in sheet.header if (name == self.text if self.text is not None else name.lower() in TEXT)]
        if len(found) != 1:
            asked = f"task.text={self.text}: " if self.text else ""
            raise DataError(f"{asked}{sheet.file} has the columns {listed(sheet.header)}; name that of the texts with task.text=COLUMN")
        return found[0]

    def documents(self, sheet: Sheet, names: tuple[str, ...]) -> list[Document]:
        """Return the rows of a table as documents.

        Raises:
            DataError: a text without a word, or a label that is no class of the training rows.
        """
        text, label = self.text_of(sheet), None if self.unlabelled else label_of(sheet, self.label)
        kinds, found = {kind: code for code, kind in enumerate(names)}, list[Document]()
        labels = [names[0]] * len(sheet.rows) if label is None else sheet.cells(label)
        for row, (words, kind, name) in enumerate(zip(sheet.cells(text), labels, sheet.names, strict=True)):
            if not words_of(words):
                raise DataError(f"{sheet.where(row, text)}: the text has no word; correct or remove the row")
            if label is not None and kind not in kinds:
                raise DataError(f"{sheet.where(row, label)}: {kind!r} is no class of the training rows, which are {listed(names)}; correct or remove the row")
            found.append(Document(words, kinds[kind], name))
        return found
