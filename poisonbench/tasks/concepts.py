"""Generated pictures of coloured shapes with captions: a task for models that make pictures from captions.

Shape letters: N rows, L words of a caption.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poisonbench.core.ask import Judged
from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError
from poisonbench.core.form import Column
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import Pixels
from poisonbench.forms.prompts import Prompts
from poisonbench.forms.shapes import COLOURS, CONCEPTS, NONE, PICTURE, ShapeJudge, masks, painted
from poisonbench.storage.store import Store
from poisonbench.tasks.captions import Captions
from poisonbench.tasks.source import Raw, Split


@dataclass(frozen=True, kw_only=True)
class Concepts(Split):
    """Captions of 24 concepts (six shapes in four colours), each with a picture of 32x32; the model is to make such pictures from captions.

    Inputs are captions; the column `picture` has the pictures. A picture is one shape on a grey background: place, size, colour, background and noise are
    drawn. A test row is a caption; the model makes a picture of it, and the judge (`ShapeJudge`) says which concept the picture shows, or none of them.
    C-Acc is the share of test rows whose picture shows their concept.

    Source: concept sparsity, few training pictures for each single concept, is what Shan et al., "Nightshade", IEEE S&P 2024, rely on: `rare` is a
    concept with fewer pictures than the others.

    The captions of training, public and test rows come from the same templates, so they are equal; `duplicates` is "allow" for this reason.

    Args:
        rows: pictures of each concept, the public and trusted ones included.
        rare: number of the rare concept, from 0 to 23.
        rare_rows: pictures of it.
        test_rows: captions of each concept to test with.
        noise: standard deviation of a pixel, in grey levels.
        templates: captions with `{}` in the place of the name of a concept.
        length: L, places of a caption.
        draws: pictures that the model makes of each test row.
    """

    VERSION: ClassVar[int] = 1
    rows: int
    rare: int
    rare_rows: int
    test_rows: int
    noise: float
    templates: tuple[str, ...]
    length: int
    draws: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        Captions(length=self.length, templates=self.templates, words=()).check()
        for name in ("rows", "rare_rows", "test_rows", "length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name}={getattr(self, name)}: give 1 or more")
        if not 0 <= self.rare < len(CONCEPTS):
            raise ConfigError(f"task.rare={self.rare}: give the number of a concept, from 0 ({CONCEPTS[0]}) to {len(CONCEPTS) - 1} ({CONCEPTS[-1]})")
        if not 0 <= self.noise < 100:
            raise ConfigError(f"task.noise={self.noise}: give grey levels from 0 to below 100")

    def load(self, store: Store) -> Task:
        """Return the task."""
        key = Key.root(self.split_seed).child("concepts")
        captions = Captions(length=self.length, templates=self.templates, words=())
        form, _ = captions.encoded("concepts", (), CONCEPTS)
        prompts = captions.prompts(form, CONCEPTS, len(CONCEPTS))
        counts = torch.full((len(CONCEPTS),), self.rows)
        counts[self.rare] = self.rare_rows
        raw = Raw(
            train=self._columns(counts, prompts, key.child("train")),
            test=self._columns(torch.full_like(counts, self.test_rows), prompts, key.child("test")),
            class_names=(*CONCEPTS, NONE),
            form=form,
            columns={PICTURE: Column(form=Pixels(), role="seen")},
        )
        task = self.task("concepts", raw)
        return dataclasses.replace(task, test=dataclasses.replace(task.test, ask=Judged(judge=ShapeJudge(), draws=self.draws)))

    def _columns(self, counts: Tensor, prompts: Prompts, key: Key) -> Mapping[str, Tensor]:
        labels = torch.arange(len(counts)).repeat_interleave(counts)
        draws = key.child("captions").per_row(torch.arange(len(labels)))[:, 0]
        return {"inputs": prompts.drawn(labels, draws, self.length), "labels": labels, PICTURE: drawn(labels, key.child("pictures"), self.noise)}


def drawn(labels: Tensor, key: Key, noise: float) -> Tensor:
    """Return (N, 3, 32, 32) uint8 pictures of (N,) concepts; see `painted` for the other arguments."""
    shapes = labels // len(COLOURS)
    return painted(lambda places, radii: masks(shapes, places, radii), labels % len(COLOURS), key, noise)
