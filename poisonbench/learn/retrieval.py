"""Retrieval: an answer is read off the passages that a search finds. The victim is its passages and the rule that combines what they say.

Shape letters: M questions, N passages, L places of a text, k passages read, D passages found, R groups of P passages that are read together,
K candidate answers of a question, A places of an answer, E numbers of an embedding, n texts that come first.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import ClassVar, Self

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Aggregator, Mean, Server
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.keys import key
from poisonbench.core.learner import Combine, Differentiable, Fitted, State, Trained, Victim
from poisonbench.core.plain import PlainLearner, PlainVictim
from poisonbench.core.proof import Looks
from poisonbench.core.retrieve import NOWHERE, Found, Hits, Index, Reader, Retriever, Sift, fingerprints, silence
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import PADDING, TEXTS
from poisonbench.learn import device


@dataclass(frozen=True, kw_only=True)
class Retrieval(PlainLearner):
    """Search the passages for each question, and let a reader choose among the candidate answers by the best of them.

    Source: Lewis et al., "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks", NeurIPS 2020, for search followed by reading. Nothing is
    trained: retriever and reader are those of the defender, and the training rows are the passages of the index. The reader reads all passages
    together; a defense may isolate them, and its rule (`defense.aggregate`) then combines one row of answers for each passage.

    Args:
        retriever: finds passages.
        reader: chooses an answer.
        top: k, passages that are read, 1 or more.
        isolated: whether the reader reads each passage alone.
        sifts: filters between search and reader, first to last.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    LOOKS_AT: ClassVar[Looks] = "nothing"
    MECHANISM: ClassVar[bool] = True
    INSIDE: ClassVar[Mapping[str, str]] = MappingProxyType({"retriever": "retriever", "reader": "reader", "sifts": "sift"})
    retriever: Retriever
    reader: Reader
    top: int
    isolated: bool = False
    sifts: tuple[Sift, ...] = ()

    def __post_init__(self) -> None:
        """Check the number of passages."""
        if self.top < 1:
            raise ConfigError(f"learner.top={self.top}: give a number of passages to read of 1 or more")

    @property
    def stages(self) -> frozenset[str]:
        """The slots that need no training steps, and those of a rule over isolated passages."""
        return super().stages | {"defense.aggregate", "defense.certify"}

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions of torch and of the packages of retriever, reader and filters; always the CPU."""
        packages = dict.fromkeys(name for part in (self.retriever, self.reader, *self.sifts) for name in getattr(part, "PACKAGES", ()))
        return {**device.runtime("cpu"), **{name: installed(name) for name in packages}}

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse passages or settings that retriever, reader, filters or rule cannot work with.

        Raises:
            ConfigError: what to change.
        """
        self.retriever.check(data)
        self.reader.check(data)
        for sift in self.sifts:
            sift.depth(self.top)
        if not self.isolated and combine.aggregate != Mean():
            rule = type(combine.aggregate).__name__
            raise ConfigError(
                f"defense.aggregate: {rule} combines passages that are read one by one, and the reader reads them together; set learner.isolated=true"
            )
        combine.aggregate.check(self.top if self.isolated else 1, 0)

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return this recipe with what retriever and reader learn from passages that cannot be poisoned."""
        return dataclasses.replace(self, retriever=self.retriever.with_public(public), reader=self.reader.with_public(public, fit))

    def with_sift(self, sift: Sift) -> Self:
        """Return the recipe with one more filter."""
        return dataclasses.replace(self, sifts=(*self.sifts, sift))

    def with_isolation(self) -> Self:
        """Return the recipe that reads each passage alone."""
        return dataclasses.replace(self, isolated=True)

    def with_top(self, top: int) -> Self:
        """Return the recipe that reads so many passages."""
        return dataclasses.replace(self, top=top)

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> RetrievalVictim:
        """Index the passages; nothing is random."""
        return RetrievalVictim(learner=self, passages=data, combine=combine, facts={"passages": len(data)})

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> RetrievalVictim:
        """Rebuild a victim; its index is built on first use, and never if its scores are in the store."""
        kept = {name.removeprefix("index."): value for name, value in trained.state.items() if name.startswith("index.")}
        return RetrievalVictim(learner=self, passages=like, combine=combine, kept=kept, facts=trained.facts)


@dataclass(frozen=True, eq=False, kw_only=True)
class RetrievalVictim(PlainVictim):
    """An index of passages, and the rule that combines what they say.

    Args:
        learner: the recipe.
        passages: N rows.
        combine: its rule joins the answers of the groups.
        kept: state of an index of the same passages; None: the index is built.
    """

    learner: Retrieval
    passages: Dataset
    combine: Combine
    kept: State | None = None

    @cached_property
    def index(self) -> Index:
        """The passages as they are searched."""
        return self.learner.retriever.index(self.passages, self.kept)

    @property
    def top(self) -> int:
        """Return k, how many passages are read."""
        return self.learner.top

    @property
    def rule(self) -> Aggregator | None:
        """The rule that combines what single passages say; None if the reader reads all of them together."""
        return self.combine.aggregate if self.learner.isolated else None

    @property
    def module(self) -> Differentiable | None:
        """The encoder, if it has gradients."""
        return self.index.module

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, E) float32 unit vectors of texts (M, L)."""
        return self.index.features(inputs)

    def state(self) -> State:
        """Return digests of passages, recipe and rule, on which all answers depend, and what the index keeps."""
        marks = {"passages": self.passages.digest, "recipe": key(self.learner), "rule": key(self.combine.aggregate)}
        digests = {name: torch.tensor([*hashlib.sha256(mark.encode()).digest()], dtype=torch.uint8) for name, mark in marks.items()}
        return digests | {f"index.{name}": value for name, value in (self.index.state() if self.kept is None else self.kept).items()}

    def scores(self, inputs: Tensor) -> Tensor:
        """Refuse.

        Raises:
            Incompatible: always; answers are candidates.
        """
        raise Incompatible(
            "a retrieval victim has no classes of its own and answers only among candidates; use a task of questions, such as task=facts, and attacks and "
            "defenses for retrieval, such as defense=query_echo"
        )

    def search(self, inputs: Tensor, count: int) -> Hits:
        """Return the best passages of the index for (M, L) questions, before any filter."""
        return self.index.search(inputs, count)

    def hits(self, inputs: Tensor, answers: Tensor) -> Hits:
        """Return the k passages that are read for each of (M, L) questions with (M, K, A) candidate answers."""
        top = self.learner.top
        if not self.learner.sifts:
            return self.search(inputs, top)
        found = self.search(inputs, max(top, *(sift.depth(top) for sift in self.learner.sifts)))
        kept = [self._known(*each) for each in zip(inputs, answers, *found, strict=True)]
        return Hits(places=torch.stack([hits.places for hits in kept]), scores=torch.stack([hits.scores for hits in kept]))

    def alone(self, inputs: Tensor, answers: Tensor, places: Tensor) -> Tensor:
        """Return (M, D, K) float32, what the reader makes of the passages at positions (M, D), each alone; -1 is no passage."""
        return self.learner.reader.read(inputs, self._texts(places)[:, :, None], answers, self.passages.form)

    def choose(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """Return (M, K) scores of the candidate answers (M, K, A), float32 unless the rule gives others."""
        return self._answered(inputs, self._texts(self.hits(inputs, answers).places), answers)

    def handed(self, inputs: Tensor, answers: Tensor, texts: Tensor) -> Tensor:
        """Return (M, K) scores if the texts (M, n, L) were the first of the k passages that are read; rows of padding are no text.

        The others are those that are read if no text of any question is in the index.
        """
        inside = torch.isin(fingerprints(self.passages.inputs), fingerprints(texts.flatten(0, 1)))
        rest = dataclasses.replace(self, passages=self.passages.take(~inside), kept=None) if inside.any() else self
        read = torch.cat([texts, rest._texts(rest.hits(inputs, answers).places)], 1)
        first = (read != PADDING).any(2).logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : self.learner.top]
        return self._answered(inputs, read.gather(1, first[:, :, None].expand(-1, -1, read.shape[2])), answers)

    def _texts(self, places: Tensor) -> Tensor:
        """Return (..., L) passages at these positions, padding where there is none."""
        return torch.where((places == NOWHERE)[..., None], PADDING, self.passages.inputs[places.clamp_min(0)])

    def _answered(self, inputs: Tensor, texts_MkL: Tensor, answers: Tensor) -> Tensor:
        """Read the texts in their groups, and combine the answers of the groups by the rule."""
        groups = texts_MkL[:, :, None] if self.learner.isolated else texts_MkL[:, None]
        read_MRK = self.learner.reader.read(inputs, groups, answers, self.passages.form)
        if self.learner.isolated:  # a rank without a passage says nothing, whatever a reader knows by itself
            read_MRK = torch.where((texts_MkL != PADDING).any(2)[..., None], read_MRK, silence(read_MRK.shape[2]))
        server = Server(round=0, state=torch.zeros(read_MRK.shape[2]), malicious=0, reference=_no_reference)
        return torch.stack([self.combine.aggregate(rows_RK, server) for rows_RK in read_MRK])

    @cached_property
    def _left(self) -> dict[bytes, Hits]:
        """What filters left of the questions so far: figures ask several times, and some filters take long."""
        return {}

    def _known(self, question: Tensor, answers_KA: Tensor, places_D: Tensor, scores_D: Tensor) -> Hits:
        asked = question.numpy().tobytes() + answers_KA.numpy().tobytes()
        if asked not in self._left:
            self._left[asked] = self._sifted(question, answers_KA, places_D, scores_D)
        return self._left[asked]

    def _sifted(self, question: Tensor, answers_KA: Tensor, places_D: Tensor, scores_D: Tensor) -> Hits:
        """Return the hits that are left of one question, as many as are read."""
        there = places_D != NOWHERE
        places, scores = places_D[there], scores_D[there]
        top = self.learner.top
        for sift in self.learner.sifts:
            places, scores = places[: max(top, sift.depth(top))], scores[: max(top, sift.depth(top))]
            if len(places):
                keep = sift.keep(self._found(question, answers_KA, places, scores))
                places, scores = places[keep], scores[keep]
        empty = Hits(places=torch.full((top,), NOWHERE), scores=torch.full((top,), -torch.inf))
        return Hits(places=torch.cat([places, empty.places])[:top], scores=torch.cat([scores, empty.scores])[:top])

    def _found(self, question: Tensor, answers_KA: Tensor, places: Tensor, scores: Tensor) -> Found:
        texts = self._texts(places)

        def alone() -> Tensor:
            return self.alone(question[None], answers_KA[None], places[None])[0].argmax(1)

        return Found(question=question, passages=texts, scores=scores, form=self.passages.form, encode=self.features, alone=alone)


def installed(package: str) -> str:
    """Return the version of a package; empty if it is not installed, which `check` refuses."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _no_reference() -> Tensor:
    """Refuse a rule that compares passages with an answer of the defender's own.

    Raises:
        Incompatible: always.
    """
    raise Incompatible("defense.aggregate compares contributions with an update on trusted rows, and passages have none; choose another rule")
