"""ONION: words that make a text unlikely are removed before the victim reads it.

Shape letters: N rows, M test rows, L tokens, T clean rows, K classes, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from defenses.train.with_clean import WithClean
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Combine, Learner, State, Trained, Victim
from poisonbench.core.rng import Key
from poisonbench.forms.ngram import BOUNDARY, Ngrams, check_order
from poisonbench.forms.tokens import TEXTS, Tokens, joined

Scale: TypeAlias = Literal["likelihood", "perplexity"]
LEAST = 50  # clean rows that a language model is fitted on
FOLDS = 10  # a clean row is judged by a model of the nine tenths of the rows that it is not in
SHARES = torch.arange(1, 26, dtype=torch.float64) / 50  # shares of the clean words that candidate bars remove
ROWS = 500


@dataclass(frozen=True, kw_only=True)
class Onion:
    """Remove the words of each test row that a language model finds suspicious; the victim is trained as usual and reads the rest.

    Source: Qi, Chen, Li, Yao, Liu, Sun, "ONION: A Simple and Effective Defense Against Textual Backdoor Attacks", EMNLP 2021: the suspicion of a word
    is the perplexity of the text less its perplexity without the word, and words from a bar upwards are removed. The bar is chosen on clean rows.

    Differences: the language model is an n-gram model (interpolated Kneser-Ney) of the defender's trusted and public rows, instead of GPT-2, so it
    knows only the words of these rows: a rare word and a trigger that both are missing there look the same. With `scale` "likelihood" the suspicion
    is the logarithm of how much likelier the rest of the text is without the word. A word that the model does not know changes the perplexity of
    a short text much more than that of a long one, but the likelihood of both alike. On a part of the training rows of SST-2, with about 540 trusted
    rows, "likelihood" lowered the ASR of `word_trigger` by 64 to 69 points (seeds 100 to 102), and "perplexity" by 21 (seed 100).

    The bar is chosen on the clean rows: candidates are tried from the highest downwards, and the last one before the victim's accuracy there falls by
    more than `cost` is taken. Each clean row is judged by a model of other rows. `cost` bounds the loss on these rows only; on test rows more may be
    lost: 4.3 points on task=sentiment, with `cost` 0.02 and about 150 trusted rows. A text keeps its least suspicious word.

    Args:
        order: words of an n-gram, 1 or more; 2 is a bigram model.
        scale: "likelihood" or "perplexity" (paper).
        cost: accuracy that may be lost on the clean rows, in [0, 1); it is no bound for other rows.
        bar: suspicion from which a word is removed, in nats for "likelihood"; null: chosen by `cost` (the most used port: 0, "perplexity").
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    order: int
    scale: Scale
    cost: float
    bar: float | None

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.order < 1 or not 0 <= self.cost < 1:
            raise ConfigError(f"defense.train.order={self.order} is 1 or more, cost={self.cost} lies in [0, 1)")

    def __call__(self, learner: Learner) -> Learner:
        """Return the learner whose victims read cleaned rows."""
        return Cleaning(member=learner, recipe=self)


@dataclass(frozen=True, kw_only=True)
class Cleaning(WithClean):
    """The learner whose victims read cleaned rows.

    Source: Qi et al., EMNLP 2021.

    Args:
        recipe: the defense.
        public: rows that cannot be poisoned; the language model learns from them and from the trusted rows.
    """

    VERSION: ClassVar[int] = 1
    recipe: Onion

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check the order of the n-grams, that there are clean rows, and that the member accepts the training rows.

        Raises:
            ConfigError: too large an order, or too few clean rows.
        """
        check_order(self.recipe.order, vocabulary_size(data))
        if (count := len(self.clean(combine))) < LEAST:
            share = max(0.01, round(1.5 * LEAST / (len(data) + count), 2))
            raise ConfigError(
                f"ONION learns its language model from trusted and public rows, and there are {count} instead of {LEAST} or more; "
                f"set task.trusted to a share above {share:g}, such as 0.1"
            )
        self.member.check(data, combine)

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> CleaningVictim:
        """Train the member on the rows as they are, fit the language model, and choose the bar."""
        assert start is None, "the language model is fitted once"
        clean, size = self.clean(combine), vocabulary_size(data)
        member = self.member.fit(data, combine, rng)
        words = Words(model=Ngrams.of(clean.inputs, self.recipe.order, size), scale=self.recipe.scale)
        suspicion_TL = held_out(clean.inputs, self.recipe, size)
        bar = chosen(member, clean, suspicion_TL, self.recipe.cost) if self.recipe.bar is None else self.recipe.bar
        removed = (suspicion_TL >= bar).sum() / (clean.inputs != BOUNDARY).sum()
        facts = {"clean_rows": len(clean), "bar": bar if bar < torch.inf else None, "clean_words_removed": float(removed)}
        return CleaningVictim(member=member, words=words, bar=bar, facts={**member.facts, **facts})

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> CleaningVictim:
        """Rebuild the member and the language model."""
        own = {name.removeprefix("words."): value for name, value in trained.state.items() if name.startswith("words.")}
        rest = {name.removeprefix("member."): value for name, value in trained.state.items() if name.startswith("member.")}
        model = Ngrams(grams=own["grams"], counts=own["counts"], size=vocabulary_size(like))
        member = self.member.restore(Trained(state=rest, facts=trained.facts), like, combine)
        bar = float(own["bar"]) if len(own["bar"]) else torch.inf
        return CleaningVictim(member=member, words=Words(model=model, scale=self.recipe.scale), bar=bar, facts=trained.facts)


@dataclass(frozen=True, eq=False, kw_only=True)
class Words:
    """A language model that says how suspicious each word of a text is.

    Args:
        model: the language model.
        scale: as in `Onion`.
    """

    model: Ngrams
    scale: Scale

    def suspicion(self, inputs: Tensor) -> Tensor:
        """Return (M, L) float64, larger is more suspicious; -inf at padding and at the least suspicious word of each row."""
        found = self.model.gains(inputs) if self.scale == "perplexity" else self.model.rises(inputs)
        least = found.masked_fill(inputs == BOUNDARY, torch.inf).argmin(1, keepdim=True)
        return found.scatter(1, least, -torch.inf)

    def cleaned(self, inputs: Tensor, bar: float) -> Tensor:
        """Return (M, L) rows without the words that are as suspicious as the bar or more."""
        parts = [without(some, self.suspicion(some) >= bar) for some in inputs.split(ROWS)]
        return torch.cat(parts) if parts else inputs


@dataclass(frozen=True, eq=False, kw_only=True)
class CleaningVictim:
    """A victim that reads cleaned rows.

    Args:
        member: the victim.
        words: the language model.
        bar: suspicion from which a word is removed; inf if no word is.
        facts: facts of the member's training, the number of clean rows, the bar, and the share of clean words that it removes.
        history: earlier states; none.
        module: None: removing words has no gradient.
    """

    member: Victim
    words: Words
    bar: float
    facts: Mapping[str, object]
    history: Sequence[State] = ()
    module: None = None

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K), the member's scores of cleaned rows."""
        return self.member.scores(self.words.cleaned(inputs, self.bar))

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, D), the member's features of cleaned rows."""
        return self.member.features(self.words.cleaned(inputs, self.bar), layer)

    def state(self) -> State:
        """Return the member's state, the counts of the language model and the bar; no bar is an empty tensor, since states are finite."""
        bar = torch.tensor([self.bar] if self.bar < torch.inf else [], dtype=torch.float64)
        own = {"words.grams": self.words.model.grams, "words.counts": self.words.model.counts, "words.bar": bar}
        return {f"member.{name}": value for name, value in self.member.state().items()} | own

    def silenced(self, channels_D: Tensor) -> CleaningVictim:
        """Return the victim whose member has these channels set to zero."""
        return dataclasses.replace(self, member=self.member.silenced(channels_D))


def held_out(inputs_TL: Tensor, recipe: Onion, size: int) -> Tensor:
    """Return (T, L) float64 suspicions of clean words, each by a model of rows in which it is not."""
    fold, found = torch.arange(len(inputs_TL)) % FOLDS, torch.zeros(inputs_TL.shape, dtype=torch.float64)
    for number in range(FOLDS):
        model = Ngrams.of(inputs_TL[fold != number], recipe.order, size)
        found[fold == number] = Words(model=model, scale=recipe.scale).suspicion(inputs_TL[fold == number])
    return found


def chosen(victim: Victim, clean: Dataset, suspicion_TL: Tensor, cost: float) -> float:
    """Return the lowest bar that costs at most `cost` of the accuracy on the clean rows, and so do all higher candidates; inf if there is none."""

    def accuracy(inputs: Tensor) -> float:
        return float((victim.scores(inputs).argmax(1) == clean.labels).double().mean())

    whole, found = accuracy(clean.inputs), torch.inf
    candidates = torch.quantile(suspicion_TL[suspicion_TL > -torch.inf], 1 - SHARES, interpolation="higher").unique().flip(0)
    for bar in candidates[candidates > 0].tolist():  # from 0 downwards are words without which the text is no likelier
        if whole - accuracy(without(clean.inputs, suspicion_TL >= bar)) > cost + 1e-9:
            break
        found = bar
    return found


def without(inputs: Tensor, gone: Tensor) -> Tensor:
    """Return (M, L) rows without the words where (M, L) bool `gone` holds; the padding is at the end."""
    return joined(inputs.masked_fill(gone, BOUNDARY), length=inputs.shape[1])


def vocabulary_size(data: Dataset) -> int:
    """Return the number of words of the task, padding included."""
    assert isinstance(data.form, Tokens), "READS says so"
    return len(data.form.vocabulary)
