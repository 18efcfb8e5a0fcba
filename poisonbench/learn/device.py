"""The device that computes tensors, CPU threads, and the memory used."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from poisonbench.core.errors import ConfigError


def resolve(wanted: str) -> str:
    """Return the device to use: "cpu" or "cuda" for "auto".

    Raises:
        ConfigError: a device that is unknown or not available.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device={wanted}: choose auto, cpu or cuda")
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError("device=cuda: torch sees no CUDA device here; use device=cpu or device=auto")
    return "cuda" if available and wanted != "cpu" else "cpu"


def has_bf16(device: str) -> bool:
    """Return whether bfloat16 arithmetic is native on this device; where it is emulated it is only slower."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # older torch does not have it
    return capabilities is not None and bool(capabilities().get("avx512_bf16", False))


def runtime(device: str) -> Mapping[str, str | int]:
    """Return what the bits of a result depend on besides the recipe: device type, threads, torch version, native bfloat16."""
    place = resolve(device)
    return {"device": place, "threads": torch.get_num_threads(), "torch": torch.__version__, "bf16": int(has_bf16(place))}


def set_threads(threads: int) -> None:
    """Use this many CPU threads; 0 keeps torch's choice, one per core.

    Raises:
        ConfigError: a negative number.
    """
    if threads < 0:
        raise ConfigError(f"threads={threads}: give a number of CPU threads, or 0 for one per core")
    if threads:
        torch.set_num_threads(threads)


def laid_out(inputs: Tensor) -> Tensor:
    """Return inputs of four axes with the second one last in memory, which is the layout that convolutions want; others as they are."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
