"""Copies of pictures: what `near_copies` finds against hashes alone, on planted copies among training rows, and what both cost.

Shape letters: N rows, M copies, B bits of a hash.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import imagehash
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks._options import Options
from benchmarks._timing import seconds
from poisonbench.core.form import equal_rows
from poisonbench.core.rng import Key
from poisonbench.forms.copies import alike_pictures
from poisonbench.report.benchmarks import Comparison
from poisonbench.storage.store import Store
from poisonbench.tasks.digits import Digits
from poisonbench.tasks.images import TorchvisionSet

Hash: TypeAlias = Callable[[Image.Image], imagehash.ImageHash]
Change: TypeAlias = Callable[[Tensor], Tensor]
FALSE = 0.01  # share of the rows that a hash may wrongly name; its limit is the largest that keeps to it
PATCH = 3
HASHES: Mapping[str, Hash] = {
    **{
        f"{name} {size}x{size}": partial(getattr(imagehash, name), hash_size=size)
        for name in ("average_hash", "phash", "phash_simple", "dhash", "dhash_vertical")
        for size in (8, 16)
    },
    "whash 8x8": imagehash.whash,
    "colorhash": imagehash.colorhash,
}


def patched(rows: slice, columns: slice) -> Change:
    """Return what paints a white patch on a (C, H, W) picture."""

    def paint(picture: Tensor) -> Tensor:
        painted = picture.clone()
        painted[:, rows, columns] = 255
        return painted

    return paint


def pressed(picture: Tensor) -> Tensor:
    """Return the picture after JPEG of quality 50."""
    stream = io.BytesIO()
    image(picture).save(stream, "JPEG", quality=50)
    read = np.array(Image.open(stream))
    return torch.from_numpy(read)[None] if read.ndim == 2 else torch.from_numpy(read).permute(2, 0, 1)


def lighter(picture: Tensor) -> Tensor:
    """Return the picture with 10 % more light."""
    return (picture.float() * 1.1).clamp(max=255).round().to(torch.uint8)


def shifted(picture: Tensor) -> Tensor:
    """Return the picture, moved by one pixel to the right."""
    return picture.roll(1, dims=2)


START, END = slice(0, PATCH), slice(-PATCH, None)
CHANGES: Mapping[str, Change] = {
    "patch top left": patched(START, START),
    "patch top right": patched(START, END),
    "patch bottom left": patched(END, START),
    "patch bottom right": patched(END, END),
    "JPEG": pressed,
    "light": lighter,
    "shift": shifted,
}


class Found(NamedTuple):
    """Which copies a method finds: the share for each change, and the share of the rows that are no copies and that it names."""

    recall: Mapping[str, float]
    false: float


def measure(options: Options, *, rows: int = 6000, copies: int = 100) -> Iterator[Comparison]:
    """Yield for each data set and hash what is found and what it costs.

    Args:
        options: `data` is a folder that contains mnist and cifar10; without it only the digits of scikit-learn are measured.
        rows: of each data set, at most; training rows.
        copies: of each change; each is a copy of another row.
    """
    for name, pictures in data_sets(options.data, rows):
        kinds = min(copies, len(pictures) // len(CHANGES))
        planted = torch.cat([torch.stack([change(pictures[row]) for row in part]) for change, part in zip(CHANGES.values(), parts(kinds), strict=True)])
        whole = torch.cat([pictures, planted])
        found, ours = costed(partial(by_form, whole, kinds))
        for label, hashed in HASHES.items():
            told, cost = costed(partial(by_hash, whole, kinds, hashed))
            yield Comparison(
                work=f"copies among {len(pictures)} rows of {name}",
                ours="defense=near_copies",
                alternative=f"imagehash {label}",
                unit="s",
                ours_cost=(ours,),
                alternative_cost=(cost,),
                note=f"found: {sentence(found)}; by the hash: {sentence(told)}",
                facts={**_facts("ours", found), **_facts("alternative", told)},
            )


def data_sets(folder: Path | None, rows: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and distinct training rows, in random order, of each data set."""
    local = Store(Path(__file__).parent.parent / "results" / "local" / "store")
    sources: list[Digits | TorchvisionSet] = [Digits(limit=None, trusted=0.0, public=0.0, split_seed=0)]
    if folder is not None:
        sources += [
            TorchvisionSet(name=name, root=str(folder / name), download=False, limit=None, trusted=0.0, public=0.0, split_seed=0)
            for name in ("mnist", "cifar10")
        ]
    for source in sources:
        task = source.load(local)
        unique = task.train.inputs[equal_rows(task.train.inputs).twin < 0]
        yield task.name, unique[torch.randperm(len(unique), generator=Key.root(100).child("hashes").torch())[:rows]]


def costed(work: Callable[[], Found]) -> tuple[Found, float]:
    """Return what is found and the seconds that it takes."""
    found: list[Found] = []
    cost = seconds(lambda: found.append(work()))
    return found[0], cost


def parts(copies: int) -> Iterator[range]:
    """Yield the rows that each change is planted on."""
    return (range(place * copies, (place + 1) * copies) for place in range(len(CHANGES)))


def by_form(whole: Tensor, copies: int) -> Found:
    """Return what `near_copies` finds; a copy counts if its own row is named."""
    twin = alike_pictures(whole, Key.root(100)).twin
    count = len(whole) - copies * len(CHANGES)
    right = twin[count:] == torch.arange(copies * len(CHANGES))
    return Found(_shares(right, copies), float((twin[:count] >= 0).float().mean()))


def by_hash(whole: Tensor, copies: int, hashed: Hash) -> Found:
    """Return what a limit on the distance of hashes finds; a copy counts if its own row is within the limit."""
    bits = np.stack([hashed(image(picture)).hash.ravel() for picture in whole])
    count = len(whole) - copies * len(CHANGES)
    nearest = closest_before(bits[:count])
    limit = next((limit for limit in range(bits.shape[1], -1, -1) if (nearest <= limit).mean() <= FALSE), 0)
    right = (bits[count:] != bits[: copies * len(CHANGES)]).sum(1) <= limit
    return Found(_shares(torch.from_numpy(right), copies), float((nearest <= limit).mean()))


def closest_before(bits_NB: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (N,) the smallest distance of each hash to an earlier one; more than any distance for the first."""
    signs = torch.from_numpy(bits_NB).float() * 2 - 1
    size = signs.shape[1]
    found = [size + 1]
    for row in range(1, len(signs)):
        found.append(round(float(size - (signs[:row] @ signs[row]).max()) / 2))
    return np.array(found)


def image(picture: Tensor) -> Image.Image:
    """Return a (C, H, W) picture as Pillow has it."""
    return Image.fromarray(picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).contiguous().numpy())


def sentence(found: Found) -> str:
    """Return the shares in words; the four corners as one."""
    corners = statistics.mean(share for name, share in found.recall.items() if name.startswith("patch"))
    rest = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found.recall.items() if not name.startswith("patch"))
    return f"patch {100 * corners:.0f} %, {rest}, false {100 * found.false:.2f} %"


def _shares(right: Tensor, copies: int) -> dict[str, float]:
    return {name: float(part.float().mean()) for name, part in zip(CHANGES, right.split(copies), strict=True)}


def _facts(side: str, found: Found) -> dict[str, float]:
    return {f"{side} {name}": share for name, share in {**found.recall, "false": found.false}.items()}
