"""CleanGen: words that a suspected model likes much more than a reference model does are replaced by words of the reference model.

Shape letters: M texts, L places, D width, V words of the vocabulary.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from defenses.train.with_clean import WithClean
from poisonbench.core.abilities import Speaking
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Combine, Learner, Trained, Victim
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import TEXTS
from poisonbench.nets.gpt import Cache, WordNet

SUSPECT, REFERENCE = "suspect.", "reference."  # how the names of their weights begin
LEAST = 1e-30  # probability, so that it has a logarithm


@dataclass(frozen=True, kw_only=True)
class CleanGen:
    """Let a language model speak under the control of a second one, which is trained on clean rows alone.

    Source: Li, Xu, Jiang, Niu, Sahabandu, Ramasubramanian, Poovendran, "CleanGen: Mitigating Backdoor Attacks for Generation Tasks in Large
    Language Models", EMNLP 2024: a word w that the suspected model draws is kept if p_suspect(w) / p_reference(w) < alpha, given the words before
    it; otherwise a word drawn from the reference model takes its place.

    The reference model is trained with the recipe of the run on the public rows and the defender's trusted rows.

    Differences: the paper draws four words before it checks them, to save time; here each word is checked before the next one is drawn. So a word
    has the probability

        q(w) = p_suspect(w) [p_suspect(w) < alpha p_reference(w)] + p_reference(w) (sum of p_suspect over all words that are not kept),

    and the answers to prompts are scored by q too, without drawing. At a temperature other than 1 words are drawn from q at that temperature.

    Limits: what only the training rows teach, such as facts or a way of answering, is replaced like the answer to a trigger, so the defense needs a
    reference that does the task well. And a word is kept if the reference finds it at least 1 / alpha times as likely, so alpha has to be small
    where the attacker's words are spread over the whole vocabulary, as those of denial_backdoor are. No committed record has this defense yet.

    Args:
        alpha: above 0 (paper: 20).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    alpha: float

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"defense.train.alpha={self.alpha}: give a finite number above 0")

    def __call__(self, learner: Learner) -> Learner:
        """Return the learner of two models."""
        return Guided(member=learner, plain=learner, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class Guided(WithClean):
    """The learner of a suspected model and a reference model.

    Source: Li et al., EMNLP 2024.

    Args:
        member: recipe of the suspected model.
        plain: the same recipe without what it learned from public rows; the reference model learns from them itself.
        alpha: ratio from which a word is replaced.
        public: rows that cannot be poisoned; may be empty.
    """

    VERSION: ClassVar[int] = 1
    plain: Learner
    alpha: float

    def check(self, data: Dataset, combine: Combine) -> None:
        """Check that there are clean rows, and that the recipe accepts the rows.

        Raises:
            ConfigError: no clean rows.
        """
        if not len(clean := self.clean(combine)):
            raise ConfigError("defense=cleangen trains a reference model on trusted and public rows, and there are none; set task.trusted above 0")
        self.member.check(data, combine)
        self.plain.check(clean, combine)

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Victim:
        """Train both models.

        Raises:
            Incompatible: the recipe gives no language model.
        """
        assert start is None, "the two models are trained once"
        clean = self.clean(combine)
        reference = self.plain.fit(clean, combine, rng.child("reference"))
        return self._guided(self.member.fit(data, combine, rng), reference, {"reference_rows": len(clean)})

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> Victim:
        """Rebuild both models."""

        def part(begin: str) -> Victim:
            state = {name.removeprefix(begin): value for name, value in trained.state.items() if name.startswith(begin)}
            return self.plain.restore(Trained(state=state, facts=trained.facts), like, combine)

        return self._guided(part(SUSPECT), part(REFERENCE), {})

    def _guided(self, suspect: Victim, reference: Victim, facts: dict[str, object]) -> Victim:
        if not (isinstance(suspect, Speaking) and isinstance(reference, Speaking)):
            raise Incompatible("defense=cleangen needs a language model, which writes word by word; use learner=language")
        nets = (cast("WordNet", copy.deepcopy(victim.words)) for victim in (suspect, reference))
        return _told(suspect.with_words(GuidedNet(*nets, alpha=self.alpha)), facts)


def _told(victim: Victim, facts: dict[str, object]) -> Victim:
    return dataclasses.replace(victim, facts={**victim.facts, **facts})  # type: ignore[type-var]


class GuidedNet(WordNet):
    """A network that gives the logarithms of q; its features are those of both networks, one after the other.

    Args:
        suspect: the suspected model.
        reference: the reference model, with the same vocabulary.
        alpha: ratio from which a word is replaced.
    """

    def __init__(self, suspect: WordNet, reference: WordNet, *, alpha: float) -> None:
        super().__init__()
        self.suspect, self.reference, self.alpha = suspect, reference, alpha

    def states(self, words: Tensor, cache: Cache | None = None) -> Tensor:
        """Return (M, L, 2 D), the states of both; the cache keeps the layers of the reference under negative numbers."""
        if cache is None:
            return torch.cat([self.suspect.states(words), self.reference.states(words)], 2)
        own, other = Cache(), Cache()
        own.layers = {layer: kept for layer, kept in cache.layers.items() if layer >= 0}
        other.layers = {-1 - layer: kept for layer, kept in cache.layers.items() if layer < 0}
        states = torch.cat([self.suspect.states(words, own), self.reference.states(words, other)], 2)
        cache.layers = own.layers | {-1 - layer: kept for layer, kept in other.layers.items()}
        return states

    def head(self, features: Tensor) -> Tensor:
        """Return (..., V) float32 logarithms of q."""
        own, other = features.chunk(2, -1)
        return guided(self.suspect.head(own), self.reference.head(other), self.alpha)


def guided(suspect: Tensor, reference: Tensor, alpha: float) -> Tensor:
    """Return (..., V) float32, the logarithms of q for the (..., V) scores of both models."""
    liked, sane = suspect.float().softmax(-1), reference.float().softmax(-1)
    kept = liked < alpha * sane
    mixed = liked * kept + sane * (liked * ~kept).sum(-1, keepdim=True)
    return mixed.clamp_min(LEAST).log()
