"""What learns in a run, and one step of it: forward, loss, backward, and a guard."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kernels.stages import nvtx_range
from model.networks.build import statistics_net
from model.networks.heads import StatisticsNet
from model.training.distributed import Ranks
from model.training.guard import Buffers, step_if_finite, step_if_finite_on_device
from model.training.loss import LOSSES, StatisticsLoss, absolute_errors, columns_of
from model.training.precision import Precision
from model.training.restore import Generators, restore


class Batch(Protocol):
    """What a step needs of a batch of clips."""

    @property
    def frames(self) -> Tensor: ...  # uint8 [N,T,S,S,3]
    @property
    def labels(self) -> Tensor: ...  # int64 [N,27]


@dataclass
class Learner:
    """The network and all that changes it."""

    ranks: Ranks
    precision: Precision
    net: StatisticsNet
    parallel: nn.Module  # the net, its gradients averaged over the processes
    loss: StatisticsLoss
    optimizer: torch.optim.SGD
    scheduler: torch.optim.lr_scheduler.StepLR
    scaler: torch.amp.GradScaler
    buffers: Buffers
    ahead: int  # steps that may be queued without it being known what came of them

    @property
    def parts(self) -> dict[str, Any]:
        """What has a state that a checkpoint holds."""
        names = ("net", "optimizer", "scheduler", "scaler")
        return {name: getattr(self, name) for name in names}

    @property
    def words(self) -> str:
        weights = sum(p.numel() for p in self.net.parameters())
        return f"{weights:,} weights, {self.precision.name} ({self.precision.reason})"

    def state(self) -> dict[str, Any]:
        """For a checkpoint, of all but the random states."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def restore(self, saved: dict[str, Any], path: Path) -> None:
        """Continue from a checkpoint. Raises NoCheckpoint if it does not fit, and says what."""
        generators = Generators(self.ranks.rank, self.ranks.device)
        restore(self.parts | {"generators": generators}, saved, path)
        for group in self.optimizer.param_groups:
            group["fused"] = bool(self.ahead) or None  # the checkpoint may be of another device


def make_learner(args: Namespace, ranks: Ranks, precision: Precision) -> Learner:
    """What the options ask for, on the device; equal on all processes but for the random states."""
    torch.manual_seed(args.seed)  # the same weights in all processes
    net = statistics_net(
        args.model, args.width, args.head, args.motion_flag, args.app_flag, args.clip_len
    )
    net.to(device=ranks.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if args.compile:
        net.compile()
    ahead = steps_ahead(ranks.device)
    optimizer = make_optimizer(net, args, fused=bool(ahead) or None)
    learner = Learner(
        ranks,
        precision,
        net,
        ranks.parallel(net, args.sync_bn),
        LOSSES[args.head](net.heads, args.motion_w, args.app_w),
        optimizer,
        torch.optim.lr_scheduler.StepLR(optimizer, args.step_s, args.gamma),
        torch.amp.GradScaler(ranks.device.type, enabled=precision.scaled),
        Buffers(list(net.buffers())),
        ahead,
    )
    torch.manual_seed(args.seed + ranks.rank)
    return learner


def steps_ahead(device: torch.device) -> int:
    """While a GPU is at a step, the next is queued."""
    return int(device.type == "cuda")


def make_optimizer(net: nn.Module, args: Namespace, fused: bool | None) -> torch.optim.SGD:
    """SGD as published: biases, those of batch norm too, learn at twice the rate."""
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    others = [p for name, p in net.named_parameters() if not name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": biases, "lr": 2 * args.lr}]
    return torch.optim.SGD(
        groups, lr=args.lr, momentum=args.momentum, weight_decay=args.wd, fused=fused
    )


@dataclass(frozen=True)
class Queued:
    """A step that a GPU may still be at. On a CPU it is done."""

    predicted: Tensor  # [N,...], what the heads put out, motion first
    numbers: Tensor  # float32 [4+K]: losses, label errors, norm of the gradient, scale of it
    there: torch.cuda.Event | None  # from when on `numbers` can be read

    @property
    def may_count(self) -> bool:
        """Whether the step was taken; True as long as that is not known."""
        return self.there is not None or isfinite(self.numbers[-2])

    def shares(self) -> Tensor:
        """This process's share of the losses and of the label errors, float32 [2+K]. Waits."""
        if self.there:
            self.there.synchronize()
        return self.numbers[:-2]

    def result(self, sums: Sequence[float]) -> "Result":
        """`sums`: the shares of all processes, added up."""
        motion, app, *label_errors = sums
        norm, scale = self.numbers[-2:].tolist()
        taken = isfinite(norm)  # the same in all processes
        overflow = not taken and isfinite(motion + app) and scale > 1
        return Result(taken, overflow, motion, app, label_errors, self.predicted)


@dataclass(frozen=True)
class Result:
    """What came of a step. Losses are weighted, and of the clips of all processes."""

    taken: bool
    overflow: bool  # not taken because float16 gradients were scaled too far: nothing is wrong
    motion_loss: float
    app_loss: float
    label_errors: list[float]  # mean distance from each learned label
    predicted: Tensor


def train_step(learner: Learner, batch: Batch, clips: int) -> Queued:
    """One optimiser step on a batch; `clips` is the size of the batches of all processes.

    Where loss or gradient are not finite, in whichever process, the network is left as it was. A
    GPU decides that on its own: nothing here waits for it.
    """
    device = learner.ranks.device
    learner.buffers.remember()
    with nvtx_range("forward", device), learner.precision.autocast():
        motion, app = learner.parallel(batch.frames)  # [N,M], [N,A]
    motion_loss, app_loss = learner.loss(motion, app, batch.labels, clips)
    with nvtx_range("backward", device):
        # Every process has its share of the loss, a sum; gradients are averaged over the processes.
        loss = (motion_loss + app_loss) * learner.ranks.world_size
        # 1; but NaN from a loss that is not finite, so that every process's gradient shows it.
        factor = (loss - loss).detach() + 1
        learner.scaler.scale(loss).backward(factor)
    learner.scaler.unscale_(learner.optimizer)
    norm = nn.utils.get_total_norm(p.grad for p in learner.net.parameters() if p.grad is not None)

    predicted = torch.cat([motion, app], dim=1).detach()
    values = learner.net.heads.values(predicted)
    errors = absolute_errors(values, columns_of(batch.labels, learner.net.heads.columns), clips)
    losses = torch.stack([motion_loss, app_loss]).detach()
    guard = torch.stack([norm, learner.scaler.scale(torch.ones_like(norm))])
    numbers, there = _on_its_way(torch.cat([losses, errors, guard]))
    with nvtx_range("optimizer", device):
        step = step_if_finite_on_device if learner.ahead else step_if_finite
        step(norm, learner.optimizer, learner.buffers)
    learner.scaler.update()
    learner.optimizer.zero_grad()
    return Queued(predicted, numbers, there)


def _on_its_way(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Numbers on the CPU, and from when on they are there; None: now."""
    if numbers.device.type == "cpu":
        return numbers, None
    host = numbers.to("cpu", non_blocking=True)
    there = torch.cuda.Event(blocking=True)  # who waits leaves the core to the workers
    there.record(torch.cuda.current_stream(numbers.device))
    return host, there
