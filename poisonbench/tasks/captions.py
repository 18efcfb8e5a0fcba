"""Captions of pictures: the class that a caption names, and the words of all captions as one vocabulary.

Shape letters: N rows, L words of a caption.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.forms.prompts import Prompts
from poisonbench.forms.tokens import Tokens, vocabulary_of, words_of
from poisonbench.tasks.dialogues import rows_of

log = logging.getLogger("poisonbench")
NO_CLASS = "no class"  # the last class: that of captions that name none


@dataclass(frozen=True, kw_only=True)
class Captions:
    """How captions are read.

    Args:
        length: words of a caption that are kept, L.
        templates: sentences about a class, with {} in the place of its name; their words are in the vocabulary.
        words: further words of the vocabulary.
    """

    length: int
    templates: tuple[str, ...]
    words: tuple[str, ...]

    def check(self) -> None:
        """Check the fields `length`, `templates` and `words` of a task.

        Raises:
            ConfigError: a length below 1, a template without one place for a name, or a word that is not one word in lower case.
        """
        if not self.templates:
            raise ConfigError("task.templates=[]: give one sentence or more, such as 'a photo of a {}'")
        if self.length < 1:
            raise ConfigError(f"task.length={self.length}: give a number of words of 1 or more")
        if odd := [template for template in self.templates if template.count("{}") != 1]:
            raise ConfigError(f"task.templates: {odd[0]!r} has {odd[0].count('{}')} times {{}}; write it once, in the place of the name of the class")
        if odd := [word for word in self.words if words_of(word) != [word]]:
            raise ConfigError(f"task.words: {odd[0]!r} is {words_of(odd[0]) or 'no word'}; give single words in lower case")

    def encoded(self, name: str, captions: Sequence[str], classes: Sequence[str]) -> tuple[Tokens, Tensor]:
        """Return the form of captions and (N, L) int64 words; the log says how many captions are cut.

        Args:
            name: of the task, for the log.
            captions: one for each row; one without words becomes a row of padding.
            classes: their names.
        """
        texts = [words_of(caption) for caption in captions]
        if cut := sum(len(words) > self.length for words in texts):
            longest = max(map(len, texts))
            told = f"{name}: {cut} of {len(texts)} captions have more than {self.length} words and are cut"
            log.warning("%s; task.length=%d keeps all", told, longest)
        kept = [words[: self.length] for words in texts]
        asked = [*map(class_words, classes), *(words_of(template.replace("{}", " ")) for template in self.templates)]
        form = Tokens(vocabulary=vocabulary_of([*kept, *asked], self.words))
        return form, rows_of(kept, form, self.length)

    def prompts(self, form: Tokens, classes: Sequence[str], size: int) -> Prompts:
        """Return the form of labels whose classes are described by the sentences.

        Args:
            form: of the captions.
            classes: names of the first classes; no sentence names the others.
            size: number of classes.

        Raises:
            ConfigError: a sentence that is longer than a row.
        """
        named = [[words_of(template.replace("{}", " ".join(class_words(name)))) for template in self.templates] for name in classes]
        if (longest := max((len(words) for each in named for words in each), default=0)) > self.length:
            raise ConfigError(f"task.length={self.length}: a sentence with the name of a class has {longest} words; set task.length={longest} or more")
        listed = tuple(tuple(tuple(form.places[word] for word in words) for words in each) for each in named)
        return Prompts(size=size, listed=(*listed, *[()] * (size - len(listed))))


@dataclass(frozen=True)
class Kinds:
    """The words of the names of classes.

    Args:
        starting: for the first word of a name the names that begin with it, as words and the number of the class; longer names first.
        count: how many classes there are.
    """

    starting: Mapping[str, Sequence[tuple[list[str], int]]]
    count: int

    @classmethod
    def of(cls, names: Sequence[str]) -> Kinds:
        """Return the words of these classes."""
        starting = dict[str, list[tuple[list[str], int]]]()
        for number, words in sorted(enumerate(map(class_words, names)), key=lambda kind: -len(kind[1])):
            starting.setdefault(words[0], []).append((words, number))
        return cls(MappingProxyType(starting), len(names))

    def first(self, caption: Sequence[str]) -> int:
        """Return the class whose name occurs first in a caption, the longest of several; the number of classes if none does."""
        for place, word in enumerate(caption):
            for words, number in self.starting.get(word, ()):
                if caption[place : place + len(words)] == words:
                    return number
        return self.count


def class_words(name: str) -> list[str]:
    """Return the words of the name of a class, which may be that of a folder."""
    return words_of(name.replace("_", " "))
