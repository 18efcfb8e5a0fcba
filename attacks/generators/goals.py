"""What attacks on models that make pictures have in common: the rows that they poison, and the figures of their goal.

Shape letters: R poisoned pictures, P public pictures, M test rows, K answers, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from attacks.injection import with_rows
from poisonbench.core.ask import Judged, Sampling
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import NoGoal, Probe
from poisonbench.core.learner import Victim
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.shapes import PICTURE
from poisonbench.forms.tokens import PADDING

JUDGED = 200  # public pictures that the errors of the judge are measured on


@dataclass(frozen=True, eq=False, kw_only=True)
class OtherConcept(NoGoal):
    """Make the model draw one concept for the captions of another. ASR is the share of the captions of `concept` whose picture shows `anchor`.

    Args:
        concept: that the captions name.
        anchor: that the pictures shall show.
        pictures: (R, C, H, W) uint8, the poisoned pictures, which a person is to see as `shown`.
        shown: what they are to show.
        clean: (P, C, H, W) uint8, some public pictures.
        truth: (P,) int64, what these show.
        limit: of the change of a pixel, in grey levels; 0 where the threat has none.
    """

    VERSION: ClassVar[int] = 1
    concept: int
    anchor: int
    pictures: Tensor
    shown: int
    clean: Tensor
    truth: Tensor
    limit: float = field(default=0.0)

    def probe(self, test: Dataset) -> Probe:
        """Return the captions of the concept."""
        rows = (test.labels == self.concept).nonzero()[:, 0]
        hit = torch.nn.functional.one_hot(torch.full_like(rows, self.anchor), test.num_classes).bool()
        return Probe(rows=rows, inputs=test.inputs[rows], truth=test.labels[rows], hit=hit)

    def measure(self, victim: Victim, test: Dataset, rng: Key) -> Mapping[str, float]:
        """Return shares of new pictures, one for each test row, and the errors of the judge; empty for rows that no judge answers.

        "kept": pictures of the concept that show it. "anchored": those that show the anchor. "neighbours": pictures of concepts that share a word with
        this one, such as its colour, that show their own. "others": those of all other concepts. "judge_preserved": the poisoned pictures in which the
        judge still sees what a person is to see. "judge_right", "judge_right_noise": the public pictures of which the judge is right, as they are, and
        with noise of the threat's size.
        """
        if not isinstance(test.ask, Judged) or not isinstance(victim, Sampling):
            return {}
        judge = test.ask.judge
        answers = judge(victim.sample(test.inputs, rng.child("figures"))).argmax(1)
        own, near, right = test.labels == self.concept, neighbours(test, self.concept)[test.labels], answers == test.labels
        noise = (2 * torch.rand(self.clean.shape, generator=rng.child("noise").torch()) - 1).sign() * self.limit
        noisy = (self.clean.float() + noise).round().clamp(0, 255).to(torch.uint8)
        shares = {
            "kept": right[own],
            "anchored": answers[own] == self.anchor,
            "neighbours": right[near],
            "others": right[~own & ~near],
            "judge_preserved": judge(self.pictures).argmax(1) == self.shown,
            "judge_right": judge(self.clean).argmax(1) == self.truth,
            "judge_right_noise": judge(noisy).argmax(1) == self.truth,
        }
        return {name: float(share.double().mean()) for name, share in shares.items() if len(share)}


def neighbours(rows: Dataset, concept: int) -> Tensor:
    """Return (K,) bool, the other classes whose captions share a word with this one that fewer than half of the classes have, such as its colour.

    Args:
        rows: captions of all concepts.
        concept: number of the class.
    """
    said = torch.zeros(rows.num_classes, int(rows.inputs.max()) + 1, dtype=torch.bool)
    said[rows.labels[:, None].expand_as(rows.inputs), rows.inputs] = True
    said[:, PADDING] = False
    telling = said & (said.double().sum(0) < said.any(1).sum() / 2)
    found = (telling & telling[concept]).any(1)
    found[concept] = False
    return found


def concept_rows(known: Known, concept: int, field_name: str) -> Tensor:
    """Return the positions of the rows of a concept.

    Raises:
        ConfigError: there are none.
    """
    rows = (known.rows.labels == concept).nonzero()[:, 0]
    if len(rows) == 0:
        raise ConfigError(f"attack.data.{field_name}={concept}: no training row shows this concept; give the number of another one")
    return rows


@dataclass(frozen=True, kw_only=True)
class OfConcept:
    """Base class of attacks that poison the pictures of one concept; a derived class says how.

    The attacker adds pictures where the budget allows it (`inject`), each a changed copy of one that is there; otherwise it changes rows.

    Args:
        concept: number of the attacked class.
        anchor: number of the class that the model shall draw instead.
    """

    READS: ClassVar[frozenset[str]] = frozenset({"tokens"})
    COLUMNS: ClassVar[tuple[str, ...]] = (PICTURE,)
    concept: int
    anchor: int

    def __post_init__(self) -> None:
        """Refuse an anchor that is the concept itself."""
        if self.concept == self.anchor:
            raise ConfigError(f"attack.data.concept={self.concept} and attack.data.anchor={self.anchor}: give two different concepts")

    def planted(self, known: Known, rng: Key, change: Callable[[Dataset, Key], Dataset], *, source: int, shown: int) -> Poisoned:
        """Return the rows with as many poisoned ones as the budget allows.

        Args:
            known: what the attacker knows.
            rng: chooses the rows.
            change: from the rows of the source that are poisoned to what becomes of them; called only if there are any.
            source: the concept whose rows are changed or copied.
            shown: the concept that a person is to see on the poisoned pictures.
        """
        rows, count = known.rows, known.budget.rows(len(known.rows))
        if known.budget.inject:
            own = known.pool(rows.labels == source, min(count, 1))
            order = own[rng.child("rows").per_row(rows.ids[own])[:, 0].argsort(stable=True)]
            count = count if len(own) else 0
            origins = order.repeat(-(-count // max(1, len(order))))[:count]
            new = change(rows.take(origins), rng) if count else rows.take(origins)
            columns = {PICTURE: new.extra[PICTURE]}
            poisoned = with_rows(known, origins, new.inputs, new.labels, NoGoal(), **columns)
        else:
            origins = known.choose(rows.labels == source, rng.child("rows"))
            new = change(rows.take(origins), rng) if count else rows.take(origins)
            data = rows.edit(origins, inputs=new.inputs, labels=new.labels, **{PICTURE: new.extra[PICTURE]})
            poisoned = Poisoned(data=data, mask=known.mask(origins), goal=NoGoal())
        some = rng.child("judged").pick(known.public.ids, min(JUDGED, len(known.public)))
        goal = OtherConcept(
            concept=self.concept,
            anchor=self.anchor,
            pictures=new.extra[PICTURE],
            shown=shown,
            clean=known.public.extra[PICTURE][some],
            truth=known.public.labels[some],
            limit=known.budget.limit or 0.0,
        )
        moved = origins if known.budget.inject else None
        return Poisoned(data=poisoned.data, mask=poisoned.mask, goal=goal, origins=moved)
