"""One training over several processes, started by torchrun: each computes a share of every batch.

Shape letters: B rows of a batch, S steps.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from poisonbench.core.errors import ConfigError
from poisonbench.learn import device


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The processes of one training; `size` 1 is a single process.

    Gradients are those of the mean over the whole batch, so the result is that of one process up to rounding.

    Args:
        rank: this process, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's share of a batch's (B,) row positions."""
        return rows if self.size == 1 else rows[self.rank :: self.size]

    def loss(self, losses: Tensor, batch: int) -> Tensor:
        """Return what to minimise here so that the mean of all gradients is that of the whole batch of `batch` rows."""
        if self.size == 1:
            return losses.mean() if len(losses) else losses.sum()  # Poisson sampling may draw no rows
        return losses.sum() * (self.size / batch)

    def over_all(self, losses_S: Tensor) -> Tensor:
        """Return the mean over processes, so that all of them see a loss that is not finite."""
        if self.size > 1:
            dist.all_reduce(losses_S)
        return losses_S / self.size

    def around(self, module: nn.Module) -> nn.Module:
        """Return the module to call in training; it shares its weights with `module`, and its gradients with all processes."""
        if self.size == 1:
            return module
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(module) if dist.get_backend() == "nccl" else module
        return nn.parallel.DistributedDataParallel(synchronised)


def crew(wanted: str) -> Crew:
    """Join the processes that torchrun started, on the device `wanted`.

    Raises:
        ConfigError: not started by torchrun.
    """
    if not dist.is_initialized():
        if "LOCAL_RANK" not in os.environ:
            raise ConfigError("learner.ddp=true needs several processes: torchrun --nproc-per-node=2 -m poisonbench learner.ddp=true ...")
        place = device.resolve(wanted)
        if place == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if place == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return Crew(rank=dist.get_rank(), size=dist.get_world_size())


def check(module: nn.Module, wanted: str, least_batch: int) -> None:
    """Refuse a training whose result would differ between one process and several.

    Raises:
        ConfigError: batch normalisation on CPUs, whose statistics would be those of a share; a batch with fewer rows than processes.
    """
    size = crew(wanted).size
    if device.resolve(wanted) == "cpu" and any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        raise ConfigError("learner.ddp=true on CPUs would normalise each process's share of a batch separately; set net.norm=group")
    if least_batch < size:
        raise ConfigError(f"learner.ddp=true: {size} processes share batches of {least_batch} rows; raise learner.batch_size")
