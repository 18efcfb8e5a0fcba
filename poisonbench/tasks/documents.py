"""Texts without labels or prompts: what the tasks of pre-training have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.ask import Judged
from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError
from poisonbench.forms.fluency import FLUENT, VERDICTS, Fluency
from poisonbench.forms.ngram import Ngrams, check_order
from poisonbench.forms.tokens import PADDING, Tokens
from poisonbench.tasks.source import Raw, Split


@dataclass(frozen=True, kw_only=True)
class Documents(Split):
    """Settings of all tasks whose rows are texts, for learner=language.

    A test row is the beginning of a text; the model writes on, and the judge (`Fluency`), which is fitted on clean texts, says whether the result is
    fluent, noise, or empty. The right answer is "fluent", so C-Acc is the share of fluent texts. A clean model is not right on all of them, since the
    judge and the model both err: its figure is the baseline.

    Args:
        length: words of a text.
        prefix: words of a test row, fewer than `length`.
        order: words of an n-gram of the judge, 2 or more.
        draws: texts that the model writes for each test row.
        words: reserved words of the vocabulary, such as triggers.
    """

    length: int
    prefix: int
    order: int
    draws: int
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if not (1 <= self.prefix <= self.length - self.order and self.order >= 2):
            asked = f"task.length={self.length}, task.prefix={self.prefix}, task.order={self.order}"
            raise ConfigError(f"{asked}: give 2 words or more for an n-gram, and leave at least that many of a text after a prefix of 1 or more")

    def task_of(self, name: str, train: Sequence[Sequence[str]], test: Sequence[Sequence[str]], form: Tokens, known: Sequence[Sequence[str]] = ()) -> Task:
        """Return the task of training texts and test texts, of which the first words are kept.

        Args:
            name: of the task.
            train: training texts.
            test: test texts.
            form: of all texts.
            known: texts that the judge is fitted on; without them the public rows.

        Raises:
            ConfigError: no texts for the judge, or n-grams that are too long for the vocabulary.
        """
        check_order(self.order, len(form.vocabulary), "task")
        rows, starts = self._rows(train, form), self._rows(test, form)
        starts[:, self.prefix :] = PADDING
        starts = starts.unique(dim=0)  # different texts may start alike
        raw = Raw(train=_labelled(rows), test=_labelled(starts), class_names=VERDICTS, form=form)
        task = self.task(name, raw)
        clean = self._rows(known, form) if known else task.public.inputs
        if len(clean) == 0:
            raise ConfigError(f"task={name}: the judge of what the model writes is fitted on public texts; set task.public to a share above 0, such as 0.2")
        judge = Fluency(model=Ngrams.of(clean, self.order, len(form.vocabulary)))
        return dataclasses.replace(task, test=dataclasses.replace(task.test, ask=Judged(judge=judge, draws=self.draws)))

    def _rows(self, texts: Sequence[Sequence[str]], form: Tokens) -> Tensor:
        rows = torch.full((len(texts), self.length), PADDING)
        for place, words in enumerate(texts):
            ids = torch.tensor([form.places[word] for word in words[: self.length]], dtype=torch.int64)
            rows[place] = F.pad(ids, (0, self.length - len(ids)), value=PADDING)
        return rows


def _labelled(rows: Tensor) -> dict[str, Tensor]:
    return {"inputs": rows, "labels": torch.full((len(rows),), FLUENT)}
