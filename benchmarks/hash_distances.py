"""How many bits of a perceptual hash change when a picture does: by compression, by light, by a patch, and from one picture to another.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks._options import Options
from benchmarks._timing import seconds
from benchmarks.hashes import END, data_sets, lighter, patched
from poisonbench.forms.hashes import HASHES, bits_apart
from poisonbench.report.benchmarks import Comparison
from poisonbench.tasks.crawl import recompressed

PERCEPTUAL = ("phash", "dhash", "average_hash")
CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    **{f"JPEG {quality}": partial(recompressed, quality=quality) for quality in (75, 50, 10)},
    "10 % more light": lighter,
    "3x3 patch": patched(END, END),
}
SHARES = (0.05, 0.5, 0.95)


def measure(options: Options, *, rows: int = 1000) -> Iterator[Comparison]:
    """Yield for each data set the bits that change by each hash: the 5 %, 50 % and 95 % quantiles over the rows.

    Args:
        options: `data` is a folder that contains mnist and cifar10; without it only the digits of scikit-learn are measured.
        rows: of each data set, at most; training rows.
    """
    for name, pictures in data_sets(options.data, rows):
        changed = {what: torch.stack([change(picture) for picture in pictures]) for what, change in CHANGES.items()}
        changed["another picture"] = pictures.roll(1, 0)
        cost = {kind: seconds(partial(HASHES[kind], pictures)) for kind in PERCEPTUAL}
        bits = {kind: quantiles(pictures, changed, kind) for kind in PERCEPTUAL}
        ours = PERCEPTUAL[0]
        for other in PERCEPTUAL[1:]:
            yield Comparison(
                work=f"bits of a hash that change, {len(pictures)} rows of {name}",
                ours=f"imagehash {ours}",
                alternative=f"imagehash {other}",
                unit="s",
                ours_cost=(cost[ours],),
                alternative_cost=(cost[other],),
                note="; ".join(f"{what}: {_told(bits[ours][what])} against {_told(bits[other][what])}" for what in changed),
                facts={
                    f"{side} {what} {share:g}": value
                    for side, kind in (("ours", ours), ("alternative", other))
                    for what, found in bits[kind].items()
                    for share, value in found.items()
                },
            )


def quantiles(pictures: Tensor, changed: Mapping[str, Tensor], kind: str) -> dict[str, dict[float, float]]:
    """Return for each change the quantiles of the bits that change."""
    before = HASHES[kind](pictures)
    return {
        what: {share: float(bits_apart(before, HASHES[kind](after)).double().quantile(share, interpolation="lower")) for share in SHARES}
        for what, after in changed.items()
    }


def _told(found: Mapping[float, float]) -> str:
    return f"{found[0.5]:.0f} ({found[0.05]:.0f} to {found[0.95]:.0f})"
