"""HotFlip: exchange one word after another for the one that raises an objective most. Shared by the attacks that use a retriever's gradient.

Shape letters: T texts, L places of a text, P free words, N choices of the free words, V words of the vocabulary, E numbers of an embedding,
D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Worded
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import PADDING, UNKNOWN

Objective: TypeAlias = Callable[[Tensor], Tensor]  # (N,) numbers to maximise from (N, T, D) features; each depends on its own choice alone

ROWS = 500  # texts that are encoded at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class Draft:
    """Texts with free words, which may be exchanged; all texts have the same free words.

    A passage is one text. A trigger is the free words of many texts, such as questions, and may stand at another place in each of them.

    Args:
        texts: (T, L) int64 words, free ones included.
        places: (T, P) int64, where the free words stand in each text.
        banned: int64 words that are never free words; neither are padding, <unk> and words that the model does not know.
    """

    texts: Tensor
    places: Tensor
    banned: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @property
    def words(self) -> Tensor:
        """(P,) int64, the free words."""
        return self.texts[0, self.places[0]]

    def written(self, words_NP: Tensor) -> Tensor:
        """Return (N, T, L), the texts with each choice of the free words."""
        shape = (len(words_NP), *self.places.shape)
        whole = self.texts.expand(len(words_NP), *self.texts.shape).clone()
        return whole.scatter_(2, self.places.expand(shape), words_NP[:, None].expand(shape))

    def started(self, module: Worded, rng: Key) -> Draft:
        """Return the draft with usable words drawn at random in place of all free words that are not usable, such as <unk>."""
        usable_V, words_P = self.usable(module), self.words
        pool = usable_V.nonzero()[:, 0]
        drawn_P = pool[torch.randint(len(pool), words_P.shape, generator=rng.torch())]
        return self.rewritten(torch.where(usable_V[words_P], words_P, drawn_P))

    def rewritten(self, words_P: Tensor) -> Draft:
        """Return the draft with other free words."""
        return dataclasses.replace(self, texts=self.written(words_P[None])[0])

    def usable(self, module: Worded) -> Tensor:
        """Return (V,) bool, the words that may be free words.

        Raises:
            ConfigError: there are none.
        """
        usable = module.known.clone()
        usable[[PADDING, UNKNOWN]] = False
        usable[self.banned] = False
        if not usable.any():
            raise ConfigError("the model knows none of the words that the attack may use; allow more words, or use a model with a larger vocabulary")
        return usable


@dataclass(frozen=True, kw_only=True)
class HotFlip:
    """Exchange the free words of a draft, one at a time, so that an objective of the texts' features grows.

    A step takes one free word at random and the gradient of the objective in its embedding. Words are ranked by the first-order estimate of the
    objective with them, the product of gradient and embedding. For the best ones the objective itself is computed, and the best of these replaces
    the word if it is better.

    Source: Ebrahimi, Rao, Lowd, Dou, "HotFlip: White-Box Adversarial Examples for Text Classification", ACL 2018; with an exact objective for the
    candidates as in Zhong, Huang, Wettig, Chen, "Poisoning Retrieval Corpora by Injecting Adversarial Passages", EMNLP 2023, and, with words shared by
    many texts, in Wallace, Feng, Kandpal, Gardner, Singh, "Universal Adversarial Triggers for Attacking and Analyzing NLP", EMNLP 2019.

    Differences: a word for which no candidate was better is not taken again before another one has changed, since the same would come out. If this
    holds for all words, the search ends. Gradient and objective use all texts; the papers draw a batch of questions for each.

    Args:
        steps: words taken, 0 or more (Zhong et al.: 5,000 for a passage of 50 words; PoisonedRAG: 30).
        candidates: words for which the objective is computed in each step, 1 or more (papers: 100).
    """

    steps: int
    candidates: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.steps < 0 or self.candidates < 1:
            raise ConfigError(f"steps={self.steps}, candidates={self.candidates}: give 0 steps or more, and 1 candidate or more")

    def improved(self, draft: Draft, module: Worded, objective: Objective, rng: Key) -> Draft:
        """Return the draft with the words that were found; its objective is never smaller than that of the start, up to rounding.

        Args:
            draft: what to start from; free words that may not be used, such as <unk>, are drawn at random first.
            module: gives the features.
            objective: what to maximise, such as `towards`.
            rng: draws these words, and chooses which word a step takes.

        Raises:
            ConfigError: as `Draft.usable`.
        """
        draft, table_VE, barred_V = draft.started(module, rng.child("start")), module.table.detach(), ~draft.usable(module)
        generator = rng.child("places").torch()
        best, left, slopes_PE = value(draft, module, objective), list[int](range(draft.places.shape[1])), slopes(draft, module, objective)
        for _ in range(self.steps):
            if not left:
                break
            free = left.pop(int(torch.randint(len(left), (), generator=generator)))
            estimates_V = (table_VE @ slopes_PE[free]).masked_fill(barred_V, -torch.inf)
            candidates = estimates_V.topk(min(self.candidates, int((~barred_V).sum()))).indices
            choices_NP = draft.words.repeat(len(candidates), 1)
            choices_NP[:, free] = candidates
            found, place = values(draft, module, objective, choices_NP).max(0)
            if float(found) > best:
                draft = draft.rewritten(choices_NP[place])
                best, left, slopes_PE = float(found), list(range(len(draft.words))), slopes(draft, module, objective)
        return draft


def towards(goal_D: Tensor) -> Objective:
    """Return the objective that is the product of features and a goal, averaged over the texts.

    For a passage that is to be found for many questions, the goal is the mean of their features: the mean of the products with each question is the
    product with their mean (Ben-Tov and Sharif, "GASLITEing the Retrieval", CCS 2025). For a trigger in questions, it is the mean of the features of
    the passages that are to be found.
    """
    return lambda features_NTD: (features_NTD @ goal_D).mean(1)


def values(draft: Draft, module: Worded, objective: Objective, words_NP: Tensor) -> Tensor:
    """Return (N,), the objective of each choice of the free words."""
    with torch.no_grad():
        parts = [draft.written(some) for some in words_NP.split(max(1, ROWS // len(draft.texts)))]
        return torch.cat([objective(module.features(part.flatten(0, 1)).unflatten(0, part.shape[:2])) for part in parts])


def value(draft: Draft, module: Worded, objective: Objective) -> float:
    """Return the objective of the draft as it is."""
    return float(values(draft, module, objective, draft.words[None]))


def slopes(draft: Draft, module: Worded, objective: Objective) -> Tensor:
    """Return (P, E), the gradient of the objective in the embedding of each free word, summed over the texts."""
    lifted_TLE = module.lift(draft.texts).detach().requires_grad_()
    (gradient_TLE,) = torch.autograd.grad(objective(module.features(lifted_TLE)[None]).sum(), lifted_TLE)
    return gradient_TLE[torch.arange(len(draft.texts))[:, None], draft.places].sum(0)
