"""Your own plain texts, cut into pieces of one length: a pre-training task."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.forms.tokens import SPECIAL, UNKNOWN, Tokens, vocabulary_of, words_of
from poisonbench.storage.store import Store
from poisonbench.tasks.documents import Documents
from poisonbench.tasks.texts import decoded_lines


@dataclass(frozen=True, kw_only=True)
class Corpus(Documents):
    """The words of plain text files in UTF-8, in lower case, cut into pieces of `length` words; the last pieces are for the test.

    All files count as one text, so a piece can start in one file and end in the next.

    Words that occur less than `min_count` times in the training pieces are unknown words. A piece that repeats an earlier one is left out.

    Args:
        root: a file, or a folder whose .txt files are read in the order of their names; variables such as $DATA are expanded.
        min_count: how often a word of the vocabulary occurs, 1 or more.
        test_rows: pieces for the test.
    """

    VERSION: ClassVar[int] = 1
    root: str | None
    min_count: int
    test_rows: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if min(self.min_count, self.test_rows) < 1:
            raise ConfigError(f"task.min_count={self.min_count}, task.test_rows={self.test_rows}: give 1 or more of both")

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: no such file, bytes that are no UTF-8, or too few words.
        """
        files = self._files()
        words = [word for file in files for line in decoded_lines(file) for word in words_of(line)]
        pieces = list(dict.fromkeys(tuple(words[start : start + self.length]) for start in range(0, len(words) - self.length + 1, self.length)))
        if len(pieces) <= self.test_rows:
            asked = f"task.test_rows={self.test_rows} pieces of task.length={self.length} words"
            raise DataError(f"{files[0].parent if len(files) > 1 else files[0]}: {len(words)} words give {len(pieces)} pieces; {asked} leave none to train on")
        train, test = pieces[: -self.test_rows], pieces[-self.test_rows :]
        counts = Counter(word for piece in train for word in piece)
        form = Tokens(vocabulary=vocabulary_of([[word for word, count in counts.items() if count >= self.min_count]], self.words))
        known = [[tuple(word if word in form.places else SPECIAL[UNKNOWN] for word in piece) for piece in part] for part in (train, test)]
        return self.task_of(files[0].stem if len(files) == 1 else files[0].parent.name, list(dict.fromkeys(known[0])), known[1], form)

    def _files(self) -> list[Path]:
        """Return the files to read.

        Raises:
            DataError: none is named, or there is none.
        """
        if self.root is None:
            raise DataError("this task reads plain text, which is your own; name the file or the folder with task.root=PATH")
        path = Path(os.path.expandvars(self.root)).expanduser()
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise DataError(f"no text file at task.root={self.root}; give the path of a file, or of a folder with .txt files")
        return files
