"""A generated web crawl: pictures with captions on domains, fetched some time after their index was made.

Shape letters: N rows, C channels, H height, W width, L words of a caption.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from poisonbench.core.data import Dataset, Task
from poisonbench.core.errors import ConfigError
from poisonbench.core.form import Column, Form
from poisonbench.core.rng import Key
from poisonbench.core.web import DOMAIN, PAGE, PRICE, SNAPSHOT
from poisonbench.decoders import picture
from poisonbench.forms.hashes import HASHES
from poisonbench.forms.pixels import Pixels
from poisonbench.forms.prompts import CAPTION, Prompts
from poisonbench.forms.reals import Reals
from poisonbench.storage.store import Store
from poisonbench.tasks.captions import Captions
from poisonbench.tasks.source import Raw, Source, Split

SEALED = Column(form=Form(), role="sealed")
# of a page: when it is read and when this is planned, after how long a bad edit is reverted, the hold-back, and the time since the last harmless edit
PAGE_COLUMN = Column(form=Reals(names=("snapshot", "planned", "revert", "hold_back", "unchanged")), role="sealed")
RECODED, LIGHTER = 0.6, 0.9  # of the rows that changed, up to this share: compressed again, made lighter; the others are replaced
QUALITY, LIGHT = 75, 1.1  # of the new JPEG file; factor of the grey levels
AWAY = 200  # grey level of the picture that a dead link leads to


@dataclass(frozen=True, kw_only=True)
class Crawl(Split):
    """Pictures with captions as a crawl finds them: an index of urls with hashes is made first, and the pictures are fetched later.

    Source: the setting of Carlini et al., "Poisoning Web-Scale Training Datasets is Practical", IEEE S&P 2024. Pictures and classes are those of another
    task; a caption is a template with the name of the class. All figures of the web below are assumptions of this task and settings of it.

    Each row lies on one of `domains`, whose sizes follow Zipf's law: the k-th largest has 1 / k of the rows of the largest. A share `expired` of them,
    drawn at random, is for sale after the index was made; prices are log-normal with the median `price`, in whole cents. A share `encyclopedia` of the
    rows lies on no such domain, but on pages that anybody may edit and that a snapshot reads one after the other. A snapshot is published with its
    pictures, so these do not change any more, and no hash tells the edit of an attacker: their hashes are zeros.

    Between index and download a share `gone` of the pictures disappears, and these rows are left out. A share `churn` changes, by nobody's ill will: 60 %
    are compressed again (JPEG of quality 75), 30 % get 10 % more light, and 10 % are replaced by a grey picture.

    Further columns: `caption`; `domain`; `price`, in cents, 0 where the domain is not for sale; `page`, the five numbers of a page, in seconds, or -1;
    and the hashes of the picture at the time of the index, by their names in `poisonbench.forms.hashes`. All but the caption are sealed.

    Args:
        pictures: the task whose pictures and classes are used; its training and test rows keep their roles.
        templates: captions with `{}` in the place of the name of a class.
        length: L, places of a caption.
        hashes: those that the index has: "sha256", "dhash", "phash", "average_hash".
        domains: number of domains.
        expired: share of the domains that are for sale, in [0, 1].
        price: median price of a domain, in dollars, at least 0.01.
        price_spread: standard deviation of the logarithm of a price, 0 or more.
        churn: share of the pictures that changed, in [0, 1].
        gone: share of the pictures that disappeared, in [0, 1).
        encyclopedia: share of the rows on pages that anybody may edit, in [0, 1).
        window: seconds that a snapshot of all pages takes.
        jitter: standard deviation of the time at which a page is read from its planned time, in seconds, 0 or more.
        revert: median time after which a bad edit is reverted, in seconds, above 0.
        revert_spread: standard deviation of the logarithm of that time, 0 or more.
        unchanged: mean time from the last harmless edit of a page to its reading, in seconds, above 0; exponential.
        hold_back: a snapshot takes the newest revision that is at least so many seconds old and has not been reverted when the page is read; 0 or more.
        order: "planned", pages are read by a schedule that an attacker can know; "random", in an order drawn for each snapshot.
    """

    VERSION: ClassVar[int] = 1
    pictures: Source
    templates: tuple[str, ...]
    length: int
    hashes: tuple[str, ...]
    domains: int
    expired: float
    price: float
    price_spread: float
    churn: float
    gone: float
    encyclopedia: float
    window: float
    jitter: float
    revert: float
    revert_spread: float
    unchanged: float
    hold_back: float
    order: Literal["planned", "random"]

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        Captions(length=self.length, templates=self.templates, words=()).check()
        for name, most in (("expired", 1), ("churn", 1), ("gone", 0.99), ("encyclopedia", 0.99)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"task.{name}={getattr(self, name)}: give a share from 0 to {most}")
        for name, least in (("price", 0.01), ("window", 1), ("revert", 0.001), ("unchanged", 0.001), ("domains", 1), ("length", 1)):
            if not least <= getattr(self, name) < 1e9:
                raise ConfigError(f"task.{name}={getattr(self, name)}: give a number of {least} or more")
        for name in ("price_spread", "jitter", "revert_spread", "hold_back"):
            if not 0 <= getattr(self, name) < 1e9:
                raise ConfigError(f"task.{name}={getattr(self, name)}: give a finite number of 0 or more")
        if (unknown := next((name for name in self.hashes if name not in HASHES), None)) is not None:
            raise ConfigError(f"task.hashes: {unknown} is no hash; choose among {', '.join(HASHES)}")

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            ConfigError: a task whose rows are no pictures.
        """
        base, key = self.pictures.load(store), Key.root(self.split_seed).child("crawl")
        if not isinstance(base.train.form, Pixels):
            raise ConfigError(f"task.pictures: the rows of {base.name} are {base.train.form.NAME}; choose a task of pictures, such as digits")
        captions = Captions(length=self.length, templates=self.templates, words=())
        form, _ = captions.encoded("crawl", (), base.class_names)
        prompts = captions.prompts(form, base.class_names, len(base.class_names))
        whole = base.train.append(base.public).append(base.trusted)
        found = self._columns(whole, prompts, key.child("train"))
        kept = key.child("gone").per_row(whole.ids)[:, 0] >= self.gone
        raw = Raw(
            train={name: column[kept] for name, column in found.items()},
            test=self._columns(base.test, prompts, None),
            class_names=base.class_names,
            columns={
                CAPTION: Column(form=form, role="said"),
                DOMAIN: SEALED,
                PRICE: SEALED,
                PAGE: PAGE_COLUMN,
                **dict.fromkeys(self.hashes, SEALED),
            },
            answers=prompts,
        )
        return self.task("crawl", raw)

    def _columns(self, rows: Dataset, prompts: Prompts, key: Key | None) -> Mapping[str, Tensor]:
        """Return the columns of rows; without a key nothing changes between index and download, and no domain is for sale."""
        own = Key.root(self.split_seed).child("crawl/test") if key is None else key
        captions = prompts.drawn(rows.labels, own.child("captions").per_row(rows.ids)[:, 0], self.length)
        domains, prices, pages = self._web(rows, own)
        on_pages = pages[:, SNAPSHOT] >= 0
        hashes = {name: HASHES[name](rows.inputs).masked_fill(on_pages[:, None], 0) for name in self.hashes}
        inputs = rows.inputs if key is None else torch.where(on_pages[:, None, None, None], rows.inputs, self._changed(rows, key))
        fixed = {"inputs": inputs, "labels": rows.labels, CAPTION: captions}
        return {**fixed, DOMAIN: domains, PRICE: prices if key is not None else torch.zeros_like(prices), PAGE: pages, **hashes}

    def _web(self, rows: Dataset, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        """Return the (N,) domains, their (N,) prices in cents, and the (N, 5) numbers of pages."""
        draws = key.child("domains").per_row(rows.ids, draws=2)
        weights = 1 / torch.arange(1, self.domains + 1, dtype=torch.float64)
        domains = torch.searchsorted(weights.cumsum(0) / weights.sum(), draws[:, 0].contiguous(), right=True).clamp(max=self.domains - 1)
        every = torch.arange(self.domains)
        sold = torch.zeros(self.domains + 1, dtype=torch.bool)
        sold[key.child("expired").pick(every, round(self.expired * self.domains))] = True
        spread = torch.from_numpy(key.child("prices").numpy().standard_normal(self.domains + 1))
        cents = (100 * self.price * (self.price_spread * spread).exp()).round().clamp(min=1).long()
        edited = draws[:, 1] < self.encyclopedia
        domains = torch.where(edited, self.domains, domains)  # the encyclopedia is one more domain, and not for sale
        return domains, torch.where(sold, cents, 0)[domains], self._pages(rows, edited, key)

    def _pages(self, rows: Dataset, edited: Tensor, key: Key) -> Tensor:
        """Return (N, 5) float32, the numbers of `PAGE_COLUMN`, in seconds; -1 for rows that are not on a page."""
        draws = key.child("pages").per_row(rows.ids, draws=4).clamp(1e-9, 1 - 1e-9)
        normal = np.sqrt(2) * torch.erfinv(2 * draws[:, 1:3] - 1)
        planned = draws[:, 0] * self.window
        read = (planned + self.jitter * normal[:, 0]).clamp(min=0)
        known = planned if self.order == "planned" else torch.full_like(planned, self.window / 2)
        reverts = self.revert * (self.revert_spread * normal[:, 1]).exp()
        unchanged = -self.unchanged * draws[:, 3].log()
        numbers = torch.stack([read, known, reverts, torch.full_like(read, self.hold_back), unchanged], 1).float()
        return torch.where(edited[:, None], numbers, -1.0)

    def _changed(self, rows: Dataset, key: Key) -> Tensor:
        """Return (N, C, H, W) uint8, the pictures as they are fetched."""
        draws = key.child("churn").per_row(rows.ids, draws=2)
        inputs, changed = rows.inputs.clone(), draws[:, 0] < self.churn
        recoded = changed & (draws[:, 1] < RECODED)
        lighter = changed & (draws[:, 1] >= RECODED) & (draws[:, 1] < LIGHTER)
        for row in recoded.nonzero()[:, 0].tolist():
            inputs[row] = recompressed(inputs[row], QUALITY)
        inputs[lighter] = (inputs[lighter].float() * LIGHT).round().clamp(max=255).to(torch.uint8)
        inputs[changed & (draws[:, 1] >= LIGHTER)] = AWAY
        return inputs


def recompressed(pixels: Tensor, quality: int) -> Tensor:
    """Return a picture (C, H, W) uint8 after it was written as a JPEG file and read; C is 1 or 3."""
    from PIL import Image

    written = io.BytesIO()
    grey = len(pixels) == 1
    Image.fromarray((pixels[0] if grey else pixels.permute(1, 2, 0)).contiguous().numpy()).save(written, "JPEG", quality=quality)
    read = torch.from_numpy(np.array(picture(written.getvalue(), "L" if grey else "RGB", "a picture of the crawl")))
    return read[None] if grey else read.permute(2, 0, 1).contiguous()
