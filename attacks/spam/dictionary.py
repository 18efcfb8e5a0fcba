"""The dictionary attack: mails labelled spam that contain a whole lexicon.

Shape letters: L places of a row, W words.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from attacks.injection import with_rows
from attacks.spam.delivery import Classes, Undelivered, anywhere, packed, words_in
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import File
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import TEXTS, Tokens, words_of

log = logging.getLogger("poisonbench")


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Inject mails labelled spam that contain many words, so that the filter takes these words of ham for signs of spam.

    Source: Nelson, Barreno, Chi, Joseph, Rubinstein, Saini, Sutton, Tygar, Xia, "Exploiting Machine Learning to Subvert Your Spam Filter", LEET 2008:
    the optimal attack uses every word, the others use a dictionary or the words of a corpus.

    One mail is one injected row, and a row has L places. Where the lexicon is longer, each mail goes on where the one before ended, and a word is in
    fewer mails; the log says so. The tasks `spam` and `sms` leave room for the whole vocabulary (`task.room=null`), so that each mail has it all, as in
    the paper.

    Differences: rows have no header here. The words are in one random order, which does not matter to a filter that reads words without their order.

    Args:
        lexicon: "optimal", every word of the task's vocabulary, which is an upper bound on what an attacker can know; or "public", the words of the
            public rows, a corpus of the same kind (`task.public=0.2`).
        file: a text file whose words are used instead of the lexicon; words outside the vocabulary are in no mail, so they are left out. null: none.
        ham: label of ham.
        spam: label of spam.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    SEVERAL_CLASSES: ClassVar[bool] = True
    lexicon: Literal["optimal", "public"]
    file: File | None
    ham: int
    spam: int

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many mails as the budget allows.

        Raises:
            ConfigError: the labels are no classes of the rows, or there are no public rows.
            DataError: the file is no text in UTF-8, or has no word of the vocabulary.
        """
        classes = Classes(ham=self.ham, spam=self.spam)
        classes.check(known.rows)
        words, senders, length = self.words(known), anywhere(known, rng.child("rows")), known.rows.inputs.shape[1]
        if len(words) > length:
            log.warning("dictionary: %d words in mails of %d places, so each word is in %.0f %% of the mails", len(words), length, 100 * length / len(words))
        order = rng.child("words").per_row(words)[:, 0].argsort(stable=True)
        return with_rows(known, senders, packed(words[order], len(senders), length), self.spam, Undelivered(classes=classes))

    def words(self, known: Known) -> Tensor:
        """Return (W,) int64, the lexicon."""
        vocabulary = cast("Tokens", known.rows.form).vocabulary
        if self.file is not None:
            return from_file(self.file, vocabulary)
        if self.lexicon == "optimal":
            return torch.arange(2, len(vocabulary))
        if len(known.public) == 0:
            raise ConfigError("attack.data.lexicon=public takes the words of public rows, and there are none; set task.public to a share, such as 0.2")
        return words_in(known.public.inputs)


def from_file(file: File, vocabulary: tuple[str, ...]) -> Tensor:
    """Return (W,) int64, the words of a text file that are in the vocabulary.

    Raises:
        DataError: no text in UTF-8, or no such word.
    """
    try:
        found = {*words_of(Path(file.path).expanduser().read_text(encoding="utf-8"))}
    except UnicodeDecodeError as error:
        raise DataError(f"attack.data.file={file.path}: byte {error.start + 1} is no UTF-8; save the file as UTF-8") from error
    known = [number for number, word in enumerate(vocabulary) if number > 1 and word in found]
    if not known:
        raise DataError(f"attack.data.file={file.path}: none of its {len(found)} words is in the vocabulary of the task; give words of its language")
    log.info("dictionary: %d of the %d words of %s are in the vocabulary", len(known), len(found), file.path)
    return torch.tensor(known)
