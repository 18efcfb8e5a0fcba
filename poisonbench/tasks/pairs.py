"""Pictures with captions: the words of captions, and the captions that name the classes.

Shape letters: N rows, L words of a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.form import Column
from poisonbench.forms.prompts import CAPTION, Prompts
from poisonbench.forms.tokens import Tokens, vocabulary_of, words_of

NO_CLASS = "no class"  # the name of the class of captions that name none
MARK = "{}"  # where a template has the name of a class


def check_templates(templates: Sequence[str]) -> None:
    """Refuse templates that have no place for the name of a class, or have several.

    Raises:
        ConfigError: the first one, and what to write.
    """
    if not templates:
        raise ConfigError("task.templates=[]: give one or more captions, such as 'a photo of a {}'")
    for template in templates:
        if template.count(MARK) != 1:
            raise ConfigError(f"task.templates: '{template}' needs {MARK} once, in the place of the name of a class; such as 'a photo of a {MARK}'")


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The vocabulary of captions, and the captions that name each class.

    Args:
        form: of captions.
        length: L, longer captions are cut.
        prompts: the words of the captions of each class, by their ids.
    """

    form: Tokens
    length: int
    prompts: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def of(cls, class_names: Sequence[str], templates: Sequence[str], captions: Sequence[str], length: int) -> Wording:
        """Return the wording of classes and captions.

        Args:
            class_names: of the classes that templates name.
            templates: captions with `{}` in the place of the name.
            captions: further texts whose words belong to the vocabulary.
            length: L.

        Raises:
            ConfigError: a template that does not fit, or that is longer than a caption with the name of a class.
        """
        check_templates(templates)
        named = [[words_of(template.replace(MARK, name)) for template in templates] for name in class_names]
        form = Tokens(vocabulary=vocabulary_of([*(words for each in named for words in each), *map(words_of, captions)]))
        if (longest := max((len(words) for each in named for words in each), default=0)) > length:
            raise ConfigError(f"task.length={length}: a template with the name of a class has {longest} words; set task.length={longest} or more")
        return cls(form=form, length=length, prompts=tuple(tuple(tuple(form.places[word] for word in words) for words in each) for each in named))

    def answers(self, *, others: bool) -> Prompts:
        """Return the form of the labels; with `others`, one more class for captions that name none."""
        prompts = (*self.prompts, ()) if others else self.prompts
        return Prompts(size=len(prompts), listed=prompts)

    def encoded(self, captions: Sequence[str]) -> Tensor:
        """Return (N, L) int64."""
        found = [self.form.encode(caption, self.length) for caption in captions]
        return torch.stack(found) if found else torch.zeros(0, self.length, dtype=torch.int64)

    def drawn(self, labels: Tensor, draws: Tensor) -> Tensor:
        """Return (N, L) int64, for each class in (N,) `labels` one of its captions; (N,) `draws` in [0, 1) choose it."""
        found = torch.zeros(len(labels), self.length, dtype=torch.int64)
        for row, (label, draw) in enumerate(zip(labels.tolist(), draws.tolist(), strict=True)):
            words = self.prompts[label][int(draw * len(self.prompts[label]))]
            found[row, : len(words)] = torch.tensor(words)
        return found

    @property
    def columns(self) -> dict[str, Column]:
        """The column of captions."""
        return {CAPTION: Column(form=self.form, role="said")}


def named_classes(captions: Sequence[str], class_names: Sequence[str]) -> Tensor:
    """Return (N,) int64, the class whose name comes first in each caption; the number of classes where there is none.

    A name is found as whole words, in lower case. Of two names that begin at the same word, the longer one counts.
    """
    names = [words_of(name) for name in class_names]
    return torch.tensor([_named(words_of(caption), names) for caption in captions], dtype=torch.int64)


def _named(words: Sequence[str], names: Sequence[Sequence[str]]) -> int:
    found = [
        (place, -len(name), number)
        for number, name in enumerate(names)
        for place in range(len(words) - len(name) + 1)
        if name and list(words[place : place + len(name)]) == list(name)
    ]
    return min(found)[2] if found else len(names)
