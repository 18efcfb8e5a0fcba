"""Image shortcut squeezing: simple compressions that remove small perturbations.

Shape letters: B rows of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch, Moment, PlainStep, Plan
from poisonbench.core.proof import Looks
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class SqueezeStep(PlainStep):
    """Compress every training picture.

    Source: Liu, Zhao, Larson, "Image Shortcut Squeezing: Countering Perturbative Availability Poisons with Compression", ICML 2023: grey scale, JPEG
    of quality 10, or a reduced bit depth.

    Differences: pictures are compressed after crop and flip; the paper compresses the stored pictures. Only training pictures are compressed.

    Args:
        how: "greyscale", "jpeg" or "bit_depth".
        quality: JPEG quality, 1 to 100 (paper: 10).
        bits: bits kept per channel, 1 to 8 (paper: 2).
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    LOOKS_AT: ClassVar[Looks] = "each row alone"
    how: Literal["greyscale", "jpeg", "bit_depth"]
    quality: int
    bits: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not 1 <= self.quality <= 100 or not 1 <= self.bits <= 8:
            raise ConfigError(f"defense.train.step: quality={self.quality} lies in 1..100, bits={self.bits} in 1..8")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Check that the inputs are pictures of one or three channels.

        Raises:
            Incompatible: they are not.
        """
        if len(plan.shape) != 3 or plan.shape[0] not in (1, 3):
            raise Incompatible(f"shortcut squeezing compresses pictures; this learner's model sees inputs of shape {plan.shape}")

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Return the compressed batch."""
        squeezed: dict[str, Callable[[Tensor], Tensor]] = {
            "greyscale": greyscale,
            "jpeg": lambda inputs: jpeg(inputs, self.quality),
            "bit_depth": lambda inputs: shallow(inputs, self.bits),
        }
        return dataclasses.replace(batch, inputs=squeezed[self.how](batch.inputs))


def greyscale(inputs: Tensor) -> Tensor:
    """Return (B, C, H, W) with the luma of ITU-R 601 in every channel; pictures of one channel are unchanged."""
    if inputs.shape[1] == 1:
        return inputs
    luma = torch.tensor([0.299, 0.587, 0.114], device=inputs.device)
    return torch.einsum("bchw,c->bhw", inputs, luma)[:, None].expand_as(inputs).contiguous()


def shallow(inputs: Tensor, bits: int) -> Tensor:
    """Return the pictures with `bits` bits per channel, the levels spread over 0..255."""
    levels = float(2**bits - 1)
    return (inputs / 255 * levels).round() * (255 / levels)


def jpeg(inputs: Tensor, quality: int) -> Tensor:
    """Return the pictures after JPEG compression of this quality."""
    from PIL import Image

    mode = "L" if inputs.shape[1] == 1 else "RGB"
    pictures = inputs.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
    decoded = []
    for picture in pictures:
        memory = io.BytesIO()
        Image.fromarray(picture.squeeze(2).numpy()).convert(mode).save(memory, "JPEG", quality=quality)
        decoded.append(torch.frombuffer(bytearray(Image.open(memory).convert(mode).tobytes()), dtype=torch.uint8).view(picture.shape))
    return torch.stack(decoded).permute(0, 3, 1, 2).to(inputs.device, inputs.dtype)
