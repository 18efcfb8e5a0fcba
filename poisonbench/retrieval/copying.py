"""A small transformer, trained within the run, that copies the answer from the passages.

Shape letters: M questions, L places of a text, R groups of P passages, K candidate answers, A places of an answer, B groups read at once, V words,
E numbers of a word's vector.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Diverged, Incompatible
from poisonbench.core.form import Form
from poisonbench.core.learner import Combine, Fitted, State, Trained, Victim
from poisonbench.core.plain import PlainLearner, PlainVictim
from poisonbench.core.proof import Looks
from poisonbench.core.retrieve import NONE_OF_THEM
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.tokens import TEXTS, begins
from poisonbench.forms.words import words_form
from poisonbench.retrieval.episodes import PARTS, Lessons, answered, narrow
from poisonbench.retrieval.pointer import Pointer, Words

KNOWN = ("common", "asked", "told")  # what the state holds besides the network's weights
PAIRS = 500  # of a question and a passage, read at once
WARMUP = 40  # steps in which the learning rate rises
NORM = 1.0  # longest gradient
FORGET = 0.02  # of the common words get another vector at each step
OWN = 0.5  # of the steps leave the words of answers their own vectors


@dataclass(frozen=True, kw_only=True)
class CopyingRecipe(PlainLearner):
    """How the network of `Copying` is trained: on groups of public passages, of which some contradict each other and some do not have the answer.

    Words that are names get fresh random vectors at every step, and so do the words of answers at every other step, so that the network learns to
    copy words that it has never seen. See `poisonbench.retrieval.episodes` for the groups and `poisonbench.retrieval.pointer` for the network.

    Args:
        vector: E, random numbers that tell a word from others.
        width: numbers of a state.
        layers: transformer layers.
        heads: attention heads of a layer; they divide `width`.
        passages: most passages of a group in training.
        steps: of the training.
        batch_size: groups of a step.
        lr: largest learning rate of AdamW; it rises for 40 steps, then falls to 0 along a cosine.
        weight_decay: of AdamW.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    vector: int
    width: int
    layers: int
    heads: int
    passages: int
    steps: int
    batch_size: int
    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        """Refuse numbers that define no network or no training."""
        whole = {name: getattr(self, name) for name in ("vector", "width", "layers", "heads", "passages", "steps", "batch_size")}
        if min(whole.values()) < 1 or self.width % self.heads or self.lr <= 0 or self.weight_decay < 0:
            asked = ", ".join(f"{name}={value}" for name, value in {**whole, "lr": self.lr, "weight_decay": self.weight_decay}.items())
            raise ConfigError(f"reader.recipe: {asked}: give numbers of 1 or more, heads that divide the width, an lr above 0 and a weight_decay of 0 or more")

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, version; always the CPU."""
        return {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__}

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse rows that it cannot learn from.

        Raises:
            ConfigError: no rows of words, or too few with a question and an answer.
        """
        words_form(data, *READER)
        answered(data)

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> CopyingVictim:
        """Train a network from scratch on public passages.

        Raises:
            ConfigError: too few passages with a question and an answer.
            Diverged: a loss that is not finite.
        """
        words = len(words_form(data, *READER).vocabulary)
        lessons, vectors = Lessons.of(data, words), _vectors(words, self.vector)
        with seeded(rng.child("start")):
            net = self._net()
        with seeded(rng.child("dropout")):
            loss = self._train(net.train(), lessons, vectors, rng.child("episodes").torch())
        known = Words(vectors=vectors, common=lessons.common, asked=lessons.topics.asked, told=lessons.topics.told)
        return CopyingVictim(net=net.eval(), words=known, facts={"loss": loss, "public_passages": len(lessons.questions)})

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> CopyingVictim:
        """Rebuild a reader."""
        return self.revived(trained.state, trained.facts)

    def revived(self, state: State, facts: Mapping[str, object]) -> CopyingVictim:
        """Return the reader that has this state."""
        net = self._net()
        net.load_state_dict({name: value for name, value in state.items() if name not in KNOWN})
        common, asked, told = (state[name] for name in KNOWN)
        words = Words(vectors=_vectors(len(common), self.vector), common=common.bool(), asked=asked, told=told)
        return CopyingVictim(net=net.eval(), words=words, facts=facts)

    def _net(self) -> Pointer:
        return Pointer(vector=self.vector, width=self.width, layers=self.layers, heads=self.heads)

    def _train(self, net: Pointer, lessons: Lessons, vectors_VE: Tensor, draws: torch.Generator) -> float:
        """Train the network in place, and return the mean loss of the last tenth of the steps."""
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        losses = list[float]()
        for step in range(self.steps):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / self.steps)) / 2
            part = step % PARTS
            episode = lessons.episode(self.batch_size, self.passages, part, draws)
            found = net(episode.questions, episode.passages, _relabelled(lessons, part, vectors_VE, draws))
            loss = -found.masked_fill(~episode.places, -torch.inf).logsumexp(1).mean()
            if not loss.isfinite():
                raise Diverged(f"the loss of the copying reader is {float(loss)} in step {step}")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), NORM)
            optimizer.step()
            losses.append(float(loss.detach()))
        last = losses[-max(1, self.steps // 10) :]
        return sum(last) / len(last)


READER = ("a reader of words", "reader")  # for errors


@dataclass(frozen=True, eq=False, kw_only=True)
class CopyingVictim(PlainVictim):
    """A trained network; no victim of its own, but what the store keeps of a reader.

    Args:
        net: in evaluation mode.
        words: what it knows of the vocabulary.
    """

    net: Pointer
    words: Words

    def scores(self, inputs: Tensor) -> Tensor:
        """Refuse.

        Raises:
            Incompatible: always; a reader needs passages.
        """
        raise Incompatible("a reader scores answers by passages and has no classes; use it as the reader of learner=retrieval")

    def state(self) -> State:
        """Return the weights and what is known of the words; vectors are drawn again."""
        known = {"common": self.words.common.to(torch.uint8), "asked": self.words.asked, "told": self.words.told}
        return {name: value.detach().clone() for name, value in self.net.state_dict().items()} | known

    @torch.no_grad()
    def read(self, questions_BL: Tensor, passages_BPL: Tensor, answers_BKA: Tensor) -> Tensor:
        """Return (B, K) float32, the probability of each answer; that of "none of them" is the network's own."""
        found = self.net(narrow(questions_BL), passages_BPL, self.words).exp()
        masses = [(found[:, :-1] * begins(passages_BPL, answer_BA[:, None]).flatten(1)).sum(1) for answer_BA in answers_BKA.unbind(1)]
        masses[NONE_OF_THEM] = found[:, -1]
        return torch.stack(masses, 1)


@dataclass(frozen=True, kw_only=True)
class Copying:
    """Answer with the candidate at which a small transformer points in the passages.

    The network reads each passage beside the question and gives each of its words a score; all words of a group and "none of them" share one softmax. The score
    of a candidate is the probability of the places where its words begin, next to each other and in order, so passages that state the same answer add up.
    It is trained once on public passages with their past questions, which nobody can poison, and knows what common words of them are about; names
    and answers may be words that it has never seen. It is no general language model: it has seen only the sentences of the public passages.

    Args:
        recipe: how it is trained.
        fitted: the state of the network, once it is trained.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"
    recipe: CopyingRecipe
    fitted: State = field(default_factory=dict)

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return this reader trained on the public passages; the store keeps the network.

        Raises:
            ConfigError: too few public passages with a question and an answer.
        """
        answered(public)
        if fit is None:
            return self
        return dataclasses.replace(self, fitted=dict(fit(self.recipe, public).state()))

    def check(self, passages: Dataset) -> None:
        """Refuse passages that are not words."""
        words_form(passages, *READER)

    def read(self, questions: Tensor, passages: Tensor, answers: Tensor, form: Form) -> Tensor:
        """Return (M, R, K) float32, the probability of each candidate answer."""
        count, groups = passages.shape[:2]
        flat = narrow(passages.flatten(0, 1))
        pieces = [rows.repeat_interleave(groups, 0) for rows in (questions, answers)]
        size = max(1, PAIRS // flat.shape[1])
        read = [self._network.read(*each) for each in zip(pieces[0].split(size), flat.split(size), pieces[1].split(size), strict=True)]
        return torch.cat(read).view(count, groups, -1)

    @cached_property
    def _network(self) -> CopyingVictim:
        assert self.fitted, "with_public comes first"
        return self.recipe.revived(self.fitted, {})


def _vectors(words: int, size: int) -> Tensor:
    """Return (V, E) random numbers of variance 1. They depend on the place of a word in the vocabulary alone and are the same in every run."""
    drawn = Key.root(0).child("words of the copying reader").per_row(torch.arange(words), draws=size)
    return ((drawn - 0.5) * math.sqrt(12)).float()


def _relabelled(lessons: Lessons, part: int, vectors_VE: Tensor, draws: torch.Generator) -> Words:
    """Return what is known of the words for one step: new vectors for names, and for some other words."""
    drawn = torch.rand(len(vectors_VE), generator=draws)
    keeps = lessons.common & (drawn >= FORGET)
    topics, names = lessons.others[part], keeps.clone()
    if torch.rand((), generator=draws) < OWN:
        names[lessons.answers.flatten()] = True
    vectors = torch.where(names[:, None], vectors_VE, torch.randn(vectors_VE.shape, generator=draws))
    return Words(vectors=vectors, common=keeps, asked=topics.asked * keeps[:, None], told=topics.told * keeps[:, None])
