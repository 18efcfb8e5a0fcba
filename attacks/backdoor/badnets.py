"""BadNets: a visible patch and a wrong label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.backdoor.triggers import Patch, Position, all_to, drawn, from_file, place
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.files import File
from poisonbench.core.goals import Backdoor
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class BadNets:
    """Stamp a patch on some training rows and give them the target label.

    Source: Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain", 2017.

    The patch is stamped on the stored pixels, before augmentation, so a random crop may cut it, as in the common benchmarks. Rows that already have
    the target label are not used: poisoning them spends budget without changing a label. Some benchmarks use them; set `poison_target_class` for
    that. With the same seed, the rows poisoned at a smaller rate are among those poisoned at a larger rate.

    Args:
        pattern: "white" or "checkerboard".
        image: an image file used instead of the pattern; transparent pixels are not stamped. null: use the pattern.
        size: side of the patch in pixels, 1 or more.
        position: "bottom_right", "bottom_left", "top_right", "top_left" or "center".
        margin: pixels between the patch and the border, 0 or more.
        mapping: "all_to_one", the target label is `target`; or "all_to_all", it is the next label (y + 1 mod K).
        target: target label, for "all_to_one".
        poison_target_class: also poison rows that already have the target label.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    pattern: Literal["white", "checkerboard"]
    image: File | None
    size: int
    position: Position
    margin: int
    mapping: Literal["all_to_one", "all_to_all"]
    target: int
    poison_target_class: bool

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with the patch on as many of them as the budget allows.

        Raises:
            ConfigError: the target is not a class, the patch does not fit, or there are too few rows to poison.
        """
        rows, wish = known.rows, self.wish(known.rows.num_classes)
        goal = Backdoor(trigger=self.patch(rows), wish=wish)
        chosen = known.choose((wish[rows.labels] != rows.labels) | self.poison_target_class, rng.child("rows"))
        data = rows.edit(chosen, inputs=goal.trigger(rows.inputs[chosen]), labels=wish[rows.labels[chosen]])
        return Poisoned(data=data, mask=known.mask(chosen), goal=goal)

    def wish(self, num_classes: int) -> Tensor:
        """Return (K,) int64, the target label for each true label."""
        to_one = all_to(self.target, num_classes)
        return (torch.arange(num_classes) + 1) % num_classes if self.mapping == "all_to_all" else to_one

    def patch(self, rows: Dataset) -> Patch:
        """Return the trigger for images like those of `rows`."""
        shape = tuple(rows.inputs.shape[1:])
        top, left = place(shape, self.size, self.position, self.margin)
        pixels, mask = drawn(self.pattern, shape[0], self.size) if self.image is None else from_file(self.image, shape[0], (self.size, self.size))
        return Patch(pixels=pixels, mask=mask, top=top, left=left)
