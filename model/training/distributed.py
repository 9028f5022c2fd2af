"""One training process, or one of several started by torchrun."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# How long one process waits for another (a checkpoint or a slow disk in between) before all end.
PATIENCE = timedelta(minutes=10)


class NoDevice(ValueError):
    """The device asked for does not exist."""


@dataclass(frozen=True)
class Ranks:
    """This process among all of them, and its device."""

    rank: int
    world_size: int
    device: torch.device
    why: str  # the device's reason
    of_node: int = 1  # processes on this machine

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add up over all processes, in place. CPU tensors travel beside the GPU's work."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank. Every process must call it."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """Rank 0's value, on all processes. Every process must call it."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def parallel(self, net: nn.Module, sync_bn: bool) -> nn.Module:
        """The network with its gradients averaged over all processes in backward."""
        if self.world_size == 1:
            return net
        if sync_bn:
            synchronise_batch_norm(net, self.device)
        on_gpu = self.device.type == "cuda"
        return DistributedDataParallel(net, device_ids=[self.device] if on_gpu else None)

    def differences(self, facts: Mapping[str, Any]) -> str:
        """Which of the facts are not the same on all processes, and where; empty if all are.
        Every process must call it."""
        everywhere = self.gather(facts)
        found = []
        for name in facts:
            ranks: dict[str, list[str]] = {}
            for rank, theirs in enumerate(everywhere):
                ranks.setdefault(str(theirs.get(name)), []).append(str(rank))
            if len(ranks) > 1:
                values = (f"{value} on rank {', '.join(where)}" for value, where in ranks.items())
                found.append(f"{name}: {', '.join(values)}")
        return "; ".join(found)


@contextmanager
def joined(choice: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started, if it did; leave them at the end.

    `choice` is "auto", "cpu", "cuda" or "cuda:N". Raises NoDevice.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device, why = _device(choice, int(os.environ.get("LOCAL_RANK", 0)), world_size)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    yield Ranks(rank, world_size, device, why, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if world_size > 1:  # after an error the others may not answer any more
        dist.destroy_process_group()


def _device(choice: str, local_rank: int, world_size: int) -> tuple[torch.device, str]:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "auto":
        if not gpus:
            return torch.device("cpu"), "no GPU found"
        choice, why = "cuda", "the first GPU" if world_size == 1 else "a GPU for each process"
    else:
        why = "asked for"
    kind, _, number = choice.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise NoDevice(f"device {choice!r} is none of auto, cpu, cuda, cuda:N")
    if kind == "cpu":
        return torch.device("cpu"), why
    if number and world_size > 1:
        raise NoDevice(f"torchrun gives each process its own GPU; leave out --device {choice}")
    index = int(number) if number else local_rank
    if index >= gpus:
        found = f"{gpus} GPUs" if gpus else "no GPU"
        raise NoDevice(f"device cuda:{index} does not exist: torch finds {found}")
    return torch.device("cuda", index), why


def synchronise_batch_norm(net: nn.Module, device: torch.device) -> None:
    """Let every batch norm take its statistics over the clips of all processes."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
        return
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.__class__ = _SynchronisedBatchNorm  # keeps parameters, buffers and names


class _SynchronisedBatchNorm(nn.BatchNorm3d):
    """What nn.SyncBatchNorm does, which runs on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values, dims = x.float(), (0, 2, 3, 4)
        total, squares = (v.sum(dims, dtype=torch.float64) for v in (values, values.square()))
        count = torch.full_like(total, x.numel() / len(total))
        total, squares, count = _SumOverRanks.apply(torch.stack([total, squares, count]))  # [C]
        mean = total / count
        variance = squares / count - mean.square()
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.float(), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).float(), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt().float()  # [C]
        shift = self.bias - mean.float() * scale
        return (values * _per_channel(scale) + _per_channel(shift)).to(x.dtype)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)


class _SumOverRanks(torch.autograd.Function):
    """A sum over all processes. Each of them depends on every summand, hence the backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient
