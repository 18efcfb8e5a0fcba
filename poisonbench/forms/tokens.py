"""Texts as rows of token ids.

Shape letters: N rows, L places of a row, V words of the vocabulary, B rows of a batch, M texts, A words of a response, l words of a text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.form import Form, Norm, Piece, Twins
from poisonbench.core.rng import Key
from poisonbench.forms.copies import alike_texts

PADDING, UNKNOWN = 0, 1
SPECIAL = ("", "<unk>")  # the words of these ids
TEXTS = frozenset({"tokens"})  # for READS of plugins that need texts
WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")  # words with apostrophes inside, numbers; each other mark is a word of its own


def words_of(text: str) -> list[str]:
    """Return the words, numbers and punctuation marks of a text, in lower case."""
    return WORD.findall(text.lower())


def vocabulary_of(texts: Sequence[Sequence[str]], reserved: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a vocabulary: padding, the unknown word, then every word of the texts and the reserved words, in alphabetical order."""
    return (*SPECIAL, *sorted({word for text in texts for word in text} | {*reserved}))


def joined(*parts: Tensor, length: int) -> Tensor:
    """Return (N, length) int64: the tokens of each part, one after the other, then padding; what is longer is cut at the end."""
    whole = torch.cat(parts, 1)
    order = (whole == PADDING).to(torch.uint8).argsort(dim=1, stable=True)
    packed = whole.gather(1, order)
    return torch.nn.functional.pad(packed, (0, max(0, length - packed.shape[1])))[:, :length].contiguous()


def trimmed(texts: Tensor) -> Tensor:
    """Return (M, l) texts without the columns at the end that are padding in all rows; l >= 1."""
    used = (texts != PADDING).any(0).nonzero()[:, 0]
    return texts[:, : int(used[-1]) + 1 if len(used) else 1]


def whole_texts(prompts: Tensor, responses: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return texts and what is learned of them.

    Args:
        prompts: (B, L) words.
        responses: (B, A) words; None for texts without prompts.

    Returns:
        (B, l) texts, and (B, l + 1) bool, the places whose word counts; the last is that after a text of l words.
    """
    texts = trimmed(prompts if responses is None else joined(prompts, responses, length=prompts.shape[1] + responses.shape[1]))
    places = torch.arange(texts.shape[1] + 1, device=texts.device)
    ends, asked = (texts != PADDING).sum(1), (prompts != PADDING).sum(1)
    alone = torch.ones_like(ends, dtype=torch.bool) if responses is None else ~(responses != PADDING).any(1)
    cut = alone & (asked == prompts.shape[1])  # a text that fills its row is cut, so nothing says that it ends there
    starts = torch.where(alone, 0, asked)
    return texts, (places >= starts[:, None]) & (places <= (ends - cut.long())[:, None])


def begins(texts: Tensor, phrases: Tensor) -> Tensor:
    """Return (..., L) bool, where the words of a phrase begin in a text, next to each other and in order; nowhere for a phrase without words.

    Args:
        texts: (..., L).
        phrases: (..., A); broadcast against the texts.
    """
    size = phrases.shape[-1]
    windows = torch.nn.functional.pad(texts, (0, size - 1), value=PADDING).unfold(-1, size, 1)
    wanted = phrases[..., None, :]
    return ((windows == wanted) | (wanted == PADDING)).all(-1) & (wanted[..., 0] != PADDING)


def edits(new: Tensor, old: Tensor) -> Tensor:
    """Return (N,) float64, Levenshtein distances between rows of tokens: inserting, deleting or replacing a token counts 1, padding 0.

    Source: Wagner and Fischer, "The String-to-String Correction Problem", J. ACM 1974; the inner loop is a running minimum over a row of
    the table, for all N rows at once.
    """
    one, other = joined(new, length=new.shape[1]), joined(old, length=old.shape[1])
    lengths, others = (one != PADDING).sum(1), (other != PADDING).sum(1)
    width = int(others.max()) if len(others) else 0
    steps = torch.arange(width + 1)
    row = steps.expand(len(one), -1).clone()
    found = torch.where(lengths == 0, others, 0)
    for place in range(int(lengths.max()) if len(lengths) else 0):
        replaced = row[:, :-1] + (one[:, place, None] != other[:, :width])
        fresh = torch.cat([row[:, :1] + 1, torch.minimum(row[:, 1:] + 1, replaced)], 1)
        row = (fresh - steps).cummin(1).values + steps  # a token of the old row that is left out costs 1 more than its neighbour
        found = torch.where(lengths == place + 1, row.gather(1, others[:, None])[:, 0], found)
    return found.double()


@dataclass(frozen=True, kw_only=True)
class Tokens(Form):
    """Texts, (N, L) int64 ids of words; 0 is padding, at the end of a row only. Changes are measured by "tokens", the edit distance.

    Args:
        vocabulary: V words by their id; the first is "" (padding), the second "<unk>" (a word that is not in the vocabulary).
    """

    NAME: ClassVar[str] = "tokens"
    KEYED: ClassVar[bool] = True
    NORMS: ClassVar[Mapping[str, Norm]] = MappingProxyType({"tokens": edits})
    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a vocabulary without the two special words, or with a word twice."""
        if self.vocabulary[:2] != SPECIAL or len(set(self.vocabulary)) != len(self.vocabulary):
            raise ConfigError(f"a vocabulary starts with {SPECIAL[0]!r} (padding) and {SPECIAL[1]!r} (unknown words) and holds each word once")

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The id of each word."""
        return MappingProxyType({word: place for place, word in enumerate(self.vocabulary)})

    def ids(self, words: Sequence[str]) -> list[int]:
        """Return the ids of words.

        Raises:
            ConfigError: names all words that are not in the vocabulary.
        """
        strange = dict.fromkeys(word for word in words if word not in self.places or word in SPECIAL)
        if strange:
            fault = f"{', '.join(map(repr, strange))} {'is' if len(strange) == 1 else 'are'} not in the vocabulary of the task"
            case = ", in lower case," if any(word != word.lower() for word in strange) else ""
            raise ConfigError(f"{fault}; choose words of its rows, or add yours{case} to those in task.words, which `describe TASK` lists")
        return [self.places[word] for word in words]

    def encode(self, text: str, length: int) -> Tensor:
        """Return (length,) int64 ids of the words of a text, padded or cut at the end; words outside the vocabulary are unknown."""
        ids = [self.places.get(word, UNKNOWN) for word in words_of(text)][:length]
        return torch.tensor(ids + [PADDING] * (length - len(ids)), dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """Return the words of (L,) ids with spaces between them."""
        return " ".join(self._words(tokens))

    def _words(self, tokens: Tensor) -> list[str]:
        return [self.vocabulary[token] for token in tokens.tolist() if token != PADDING]

    def fault(self, values: Tensor) -> str | None:
        """Refuse anything but (N, L) int64 ids of the vocabulary with padding at the end of a row."""
        if values.dtype != torch.int64 or values.ndim != 2:
            return f"inputs are {values.dtype} of shape {tuple(values.shape)}; give int64 tokens (N, L)"
        if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < len(self.vocabulary)):
            return f"a token is out of range; {len(self.vocabulary)} words allow ids from 0 to {len(self.vocabulary) - 1}"
        if ((values[:, :-1] == PADDING) & (values[:, 1:] != PADDING)).any():
            return "padding (0) stands before a word; put it at the end of the row"
        return None

    def ready(self, inputs: Tensor) -> Tensor:
        """Return the ids; networks look up their embeddings."""
        return inputs

    def table(self, inputs: Tensor) -> Tensor:
        """Return (N, V) how often each word occurs in each row, sparse; padding is not counted."""
        rows, places = (inputs != PADDING).nonzero(as_tuple=True)
        index, shape = torch.stack([rows, inputs[rows, places]]), (len(inputs), len(self.vocabulary))
        return torch.sparse_coo_tensor(index, torch.ones(index.shape[1]), shape, check_invariants=True).coalesce()

    def mixed(self, inputs: Tensor, others: Tensor, weight: float, rng: Key) -> Tensor:
        """Replace each word with probability one half by the word at its place in the other row, if there is one; `weight` has no effect."""
        drawn = torch.rand(inputs.shape, generator=rng.torch()) < 0.5
        return torch.where(drawn & (inputs != PADDING) & (others != PADDING), others, inputs)

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """Return (N, L) int64, the words of all parts, one part after the other; padded at the end."""
        return parts[0] if len(parts) == 1 else joined(*parts, length=sum(part.shape[1] for part in parts))

    def twins(self, values: Tensor, rng: Key) -> Twins:
        """Return which texts have nearly the same words in a row as an earlier one (`poisonbench.forms.copies`)."""
        return alike_texts(values, padding=PADDING)

    def text(self, value: Tensor) -> str:
        """Return the words."""
        return self.decode(value)

    def pieces(self, value: Tensor, before: Tensor | None) -> tuple[Piece, ...]:
        """Return runs of words that were kept, removed and added."""
        new = self._words(value)
        old = new if before is None else self._words(before)
        moves = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        return tuple(piece for kind, i, j, m, n in moves for piece in _compared(old[i:j], new[m:n], kept=kind == "equal"))


def _compared(old: Sequence[str], new: Sequence[str], *, kept: bool) -> list[Piece]:
    if kept:
        return [Piece(" ".join(new))]
    both = [Piece(" ".join(old), "removed"), Piece(" ".join(new), "added")]
    return [piece for piece in both if piece.text]
