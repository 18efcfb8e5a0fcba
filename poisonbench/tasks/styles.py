"""Generated pictures in the styles of four artists, with captions: a task for models that make pictures from captions.

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
from poisonbench.forms.shapes import COLOURS, NONE, PICTURE, painted
from poisonbench.forms.styles import SUBJECTS, StyleJudge, covers
from poisonbench.storage.store import Store
from poisonbench.tasks.captions import Captions
from poisonbench.tasks.source import Raw, Split

ARTISTS = ("artist one", "artist two", "artist three", "artist four")  # in the order of STYLES
SUBJECT = "{subject}"  # its place in a template


@dataclass(frozen=True, kw_only=True)
class Styles(Split):
    """Captions of 16 subjects by four artists, each with a picture of 32x32; the model is to draw in the style of the artist that a caption names.

    The class of a row is the artist. Each artist has one style: filled, striped, barred or checked. A subject is a circle, square, triangle or
    diamond in one of four colours; place, size, colour, background and noise are drawn as in task=concepts. A test row is a caption; the model makes a
    picture of it, and the judge (`StyleJudge`) says in which style the picture is. C-Acc is the share of test rows in the style of their artist; whether
    the picture shows the subject is not measured.

    Source: a model that learns the style of an artist from few pictures is what Shan et al., "Glaze", USENIX Security 2023, protect against. There, a
    public model is fine-tuned on the pictures of one artist; here one model is trained on the pictures of all artists, of which `rare` has few.
    The public rows, on which the auto-encoder is fitted, have as many pictures in this style as in the others.

    The captions of training, public and test rows come from the same templates, so they are equal; `duplicates` is "allow" for this reason.

    Args:
        rows: pictures of each artist, the public and trusted ones included.
        rare: number of the artist with fewer training rows, from 0 to 3.
        rare_rows: training rows of that artist; there are no more than of the others.
        test_rows: captions of each artist to test with.
        noise: standard deviation of a pixel, in grey levels.
        templates: captions with `{subject}` in the place of the subject and `{}` in the place of the artist.
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
        if odd := [template for template in self.templates if template.count(SUBJECT) != 1]:
            raise ConfigError(f"task.templates: {odd[0]!r} has {odd[0].count(SUBJECT)} times {SUBJECT}; write it once, in the place of the subject")
        self._captions.check()
        for name in ("rows", "rare_rows", "test_rows", "length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name}={getattr(self, name)}: give 1 or more")
        if not 0 <= self.rare < len(ARTISTS):
            raise ConfigError(f"task.rare={self.rare}: give the number of an artist, from 0 to {len(ARTISTS) - 1}")
        if not 0 <= self.noise < 100:
            raise ConfigError(f"task.noise={self.noise}: give grey levels from 0 to below 100")

    @property
    def _captions(self) -> Captions:
        """The templates of each subject, one subject after the other."""
        templates = tuple(template.replace(SUBJECT, subject) for subject in SUBJECTS for template in self.templates)
        return Captions(length=self.length, templates=templates, words=())

    def load(self, store: Store) -> Task:
        """Return the task."""
        key = Key.root(self.split_seed).child("styles")
        form, _ = self._captions.encoded("styles", (), ARTISTS)
        prompts = self._captions.prompts(form, ARTISTS, len(ARTISTS))
        raw = Raw(
            train=self._columns(self.rows, prompts, key.child("train")),
            test=self._columns(self.test_rows, prompts, key.child("test")),
            class_names=(*ARTISTS, NONE),
            form=form,
            columns={PICTURE: Column(form=Pixels(), role="seen")},
        )
        task = self.task("styles", raw)
        own = task.train.labels == self.rare
        train = task.train.take((~own | (own.cumsum(0) <= self.rare_rows)).nonzero()[:, 0])
        return dataclasses.replace(task, train=train, test=dataclasses.replace(task.test, ask=Judged(judge=StyleJudge(), draws=self.draws)))

    def _columns(self, rows: int, prompts: Prompts, key: Key) -> Mapping[str, Tensor]:
        labels = torch.arange(len(ARTISTS)).repeat_interleave(rows)
        draws = key.child("captions").per_row(torch.arange(len(labels)))[:, 0]
        subjects = (draws * len(SUBJECTS) * len(self.templates)).long() // len(self.templates)  # as `Prompts.drawn` chooses the caption
        pictures = styled(labels, subjects, key.child("pictures"), self.noise)
        return {"inputs": prompts.drawn(labels, draws, self.length), "labels": labels, PICTURE: pictures}


def styled(styles: Tensor, subjects: Tensor, key: Key, noise: float) -> Tensor:
    """Return (N, 3, 32, 32) uint8 pictures of (N,) subjects in (N,) styles; see `painted` for the other arguments."""
    return painted(lambda places, radii: covers(styles, subjects, places, radii), subjects % len(COLOURS), key, noise)
