"""Your own texts: a table with a column of texts and a column of labels, or plain files with one text per line."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.forms.tokens import words_of
from poisonbench.storage.store import Store
from poisonbench.tasks.csv import classes, label_of
from poisonbench.tasks.lines import TEXT, Plain, is_plain, plain_files, write_lines
from poisonbench.tasks.sheet import Sheet, listed, located, opened, read
from poisonbench.tasks.source import UNLABELLED, Put, check_unlabelled, copied
from poisonbench.tasks.texts import Document, Texts
from poisonbench.tasks.writing import Table, write_table


@dataclass(frozen=True, kw_only=True)
class TextTable(Texts):
    """Texts of a CSV or TSV file in UTF-8 with a header, whose cells may be quoted, of JSON lines, of Parquet files, or of plain files.

    A plain file ends in .txt and has one text per line; empty lines are left out. Its labels are in a second file, `labels`, or the texts have none
    (`unlabelled`). A folder of plain files has one file for each class, such as ham.txt and spam.txt, or `train` and `test` with such files. A .txt
    file is read as a table if `text` or `label` names a column, or if its first line names a column of texts and one of labels.

    Args:
        root: the file, or a folder of train*.parquet and test*.parquet or of plain files; variables such as $DATA are expanded.
        text: column of the texts; None finds it by its name, such as text, sentence or message.
        label: column of the classes; None finds it by its name, such as label, class or target.
        test_file: a second file with the test rows, in place of those that `test` holds out; a table, or for texts without labels a plain file.
            None for none.
        unlabelled: the texts have no labels; all rows get one class.
        labels: file with one label per line, for a plain file of texts in the same order; None for none.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    text: str | None
    label: str | None
    test_file: str | None
    unlabelled: bool = field(default=False, metadata={"spec": "changed"})
    labels: str | None = field(default=None, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Check that labels are named once, and not left out as well."""
        super().__post_init__()
        check_unlabelled(self.unlabelled, self.label)
        if self.labels is not None and (self.label is not None or self.unlabelled):
            other = f"task.label={self.label}" if self.label is not None else "task.unlabelled=true"
            raise ConfigError(f"task.labels={self.labels} names the file of the labels, and {other} contradicts it; leave one of them out")

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: a file that cannot be read as such a table; the message names the file, the line and the column.
            ConfigError: a file of labels, or a file of test rows, that has no effect.
        """
        plain = self.plain()
        sheet, tested = opened(self.root, self.test_file) if plain is None else self.opened_plain(plain)
        names = (UNLABELLED,) if self.unlabelled else classes(sheet, label_of(sheet, self.label))
        test = [] if tested is None else self.documents(tested, names)
        test = [document._replace(name=name) for document, name in zip(test, tested.names_with_file if tested else (), strict=True)]
        split = dataclasses.replace(self, test=0.0) if test else self
        return split.task(sheet.file.stem, self.raw(sheet.file.stem, self.documents(sheet, names), test, names))

    def kept(self, dropped: Collection[int], out: Path, put: Put = copied) -> Path:
        """Write the table without some rows; see `Split.kept`."""
        if (plain := self.plain()) is not None:
            return write_lines(plain, plain.training(unlabelled=self.unlabelled), dropped, out, put)
        return write_table(Table(opened(self.root, None)[0], self.root, self.test_file), dropped, out, put)

    def plain(self) -> Plain | None:
        """Return the plain files that are read; None for a table."""
        found = None if self.text is not None or self.label is not None else plain_files(self.root, self.labels)
        return found if found is None or self.test_file is None else found._replace(apart=located(self.test_file, "task.test_file"))

    def opened_plain(self, plain: Plain) -> tuple[Sheet, Sheet | None]:
        """Return the training rows and the test rows of plain files.

        Raises:
            DataError: files that cannot be read, or test rows without labels.
            ConfigError: two places for test rows.
        """
        sheet, file = plain.training(unlabelled=self.unlabelled), plain.apart
        if file is None:
            return sheet, plain.sheet(plain.test, unlabelled=self.unlabelled) if plain.test else None
        if plain.test:
            raise ConfigError(f"task.test_file={self.test_file}: {plain.root} has test rows in {plain.test[0].parent.name}; leave task.test_file out")
        if not is_plain(file):
            return sheet, read(file)
        if not self.unlabelled:
            raise DataError(f"task.test_file={self.test_file} has one text per line and no labels; give a table, or hold rows out with task.test=0.2")
        return sheet, Plain(file, (file,)).sheet((file,), unlabelled=True)

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
