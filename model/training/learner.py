"""What learns in a run, and one step of it: forward, loss, backward, and a guard."""

from argparse import Namespace
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
from model.training.loss import LOSSES, StatisticsLoss, absolute_errors
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


def make_learner(args: Namespace, ranks: Ranks, precision: Precision) -> Learner:
    """What the options ask for, on the device; equal on all processes but for the random states."""
    torch.manual_seed(args.seed)  # the same weights in all processes
    net = statistics_net(
        args.model, args.width, args.head, args.motion_flag, args.app_flag, args.clip_len
    )
    net.to(device=ranks.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if args.compile:
        net.compile()
    optimizer = make_optimizer(net, args)
    learner = Learner(
        ranks,
        precision,
        net,
        ranks.parallel(net, args.sync_bn),
        LOSSES[args.head](net.heads, args.motion_w, args.app_w),
        optimizer,
        torch.optim.lr_scheduler.StepLR(optimizer, args.step_s, args.gamma),
        torch.amp.GradScaler(ranks.device.type, enabled=precision.scaled),
    )
    torch.manual_seed(args.seed + ranks.rank)
    return learner


def make_optimizer(net: nn.Module, args: Namespace) -> torch.optim.SGD:
    """SGD as published: biases, those of batch norm too, learn at twice the rate."""
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    others = [p for name, p in net.named_parameters() if not name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": biases, "lr": 2 * args.lr}]
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum, weight_decay=args.wd)


@dataclass(frozen=True)
class Result:
    """What came of a step. Losses are weighted, and of the clips of all processes."""

    taken: bool
    overflow: bool  # not taken because float16 gradients were scaled too far: nothing is wrong
    motion_loss: float
    app_loss: float
    label_errors: list[float]  # mean distance from each learned label
    predicted: Tensor  # [N,...], what the heads put out, motion first


def train_step(learner: Learner, batch: Batch, clips: int) -> Result:
    """One optimiser step on a batch; `clips` is the size of the batches of all processes.

    Where loss or gradient are not finite, the network is left as it was.
    """
    device = learner.ranks.device
    buffers = [(buffer, buffer.clone()) for buffer in learner.net.buffers()]
    with nvtx_range("forward", device), learner.precision.autocast():
        motion, app = learner.parallel(batch.frames)  # [N,M], [N,A]
    motion_loss, app_loss = learner.loss(motion, app, batch.labels, clips)
    # Every process has its share of the loss, a sum; gradients are averaged over the processes.
    with nvtx_range("backward", device):
        learner.scaler.scale((motion_loss + app_loss) * learner.ranks.world_size).backward()
    learner.scaler.unscale_(learner.optimizer)
    norm = nn.utils.get_total_norm(p.grad for p in learner.net.parameters() if p.grad is not None)

    predicted = torch.cat([motion, app], dim=1).detach()
    values = learner.net.heads.values(predicted)
    errors = absolute_errors(values, batch.labels[:, learner.net.heads.columns], clips)
    shares = torch.cat([torch.stack([motion_loss, app_loss]).detach(), errors])
    motion_value, app_value, *label_errors = learner.ranks.sum(shares).tolist()
    finite = isfinite(motion_value + app_value)
    taken = finite and isfinite(norm)  # the same in all processes
    if taken:
        with nvtx_range("optimizer", device):
            learner.scaler.step(learner.optimizer)
    else:
        for buffer, before in buffers:
            buffer.copy_(before)
    overflow = (
        finite and not taken and learner.scaler.is_enabled() and learner.scaler.get_scale() > 1
    )
    learner.scaler.update()
    learner.optimizer.zero_grad()
    return Result(taken, overflow, motion_value, app_value, label_errors, predicted)
