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


@dataclass(frozen=True, kw_only=True)
class BadNets:
    """Stamp a patch on some rows and relabel them.

    Source: Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply
    Chain", 2017. The patch is stamped on the stored pixels, before any augmentation, so a random crop may
    cut it, as in the benchmarks of the field. Rows that already bear the wished label are left out unless
    `poison_target_class` is set: poisoning them spends budget without changing a label, as some benchmarks do.
    The rows are nested over rates: those of a smaller rate are among those of a larger one.

    Args:
        pattern: "white" or "checkerboard".
        image: an image file instead of the pattern; transparent pixels are not stamped.
        size: side of the patch, in pixels.
        position: where the patch lies.
        margin: pixels between the patch and the border.
        mapping: "all_to_one" wishes for `target`, "all_to_all" for the next label (y + 1 mod K).
        target: target label, for "all_to_one".
        poison_target_class: also poison rows that already bear the wished label.
    """

    VERSION: ClassVar[int] = 1
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
            ConfigError: a target that is no class, a patch that does not fit, or too few rows to poison.
        """
        rows, wish = known.rows, self.wish(known.rows.num_classes)
        goal = Backdoor(trigger=self.patch(rows), wish=wish)
        chosen = known.choose((wish[rows.labels] != rows.labels) | self.poison_target_class, rng.child("rows"))
        data = rows.edit(chosen, inputs=goal.trigger(rows.inputs[chosen]), labels=wish[rows.labels[chosen]])
        return Poisoned(data=data, mask=known.mask(chosen), goal=goal)

    def wish(self, num_classes: int) -> Tensor:
        """Return (K,) int64, the wished label for each true label."""
        to_one = all_to(self.target, num_classes)
        return (torch.arange(num_classes) + 1) % num_classes if self.mapping == "all_to_all" else to_one

    def patch(self, rows: Dataset) -> Patch:
        """Return the trigger for images like those of `rows`."""
        shape = tuple(rows.inputs.shape[1:])
        top, left = place(shape, self.size, self.position, self.margin)
        pixels, mask = drawn(self.pattern, shape[0], self.size) if self.image is None else from_file(self.image, shape[0], (self.size, self.size))
        return Patch(pixels=pixels, mask=mask, top=top, left=left)
