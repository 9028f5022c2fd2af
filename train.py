"""Pre-train a video network on spatio-temporal statistics: device, loader, model, loss, checkpoint.

python train.py --videos DIR
python train.py --rgb_prefix RGB_DIR --flow_x_prefix FLOW_X_DIR --flow_y_prefix FLOW_Y_DIR
python train.py --videos DIR --resume
torchrun --nproc-per-node=4 train.py --videos DIR

Exit code 0: trained, or asked to stop (SIGTERM, SIGUSR1) and saved; 2: the flags or the input do
not allow it; 1: it went wrong on the way. --resume continues in each case.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from numpy import ndarray
from torch import Tensor, nn

from dali_pipes import ClipBatch, ClipLoader
from dali_pipes.decoding.video import BadVideo
from dali_pipes.flow import FLOW_CHOICES
from dali_pipes.loader import NothingUsable
from dali_pipes.pipelines.running import LoaderStopped
from dali_pipes.sources import open_source, split
from kernels.labels.difficulty import motion_confidence
from kernels.labels.schema import NAMES
from kernels.stages import nvtx_range
from model import BACKBONES
from model.networks.heads import HEADS, StatisticsNet
from model.training import checkpoint, curriculum
from model.training.distributed import NoDevice, Ranks, joined
from model.training.loss import LOSSES, StatisticsLoss, absolute_errors
from model.training.options import check_same_run, parse, plain
from model.training.precision import Precision, choose
from model.training.report import Report, Step, new_run
from model.training.signals import stop_requests
from model.training.validation import accuracy_and_chance, label_counts

BAD_STEPS = 5  # so many in a row without a finite loss and gradient end the run
PICTURE_SECONDS = 300  # between two pictures of a labelled clip


class Stop(Exception):
    """Ends the run with one line and an exit code."""

    def __init__(self, message: object, code: int) -> None:
        super().__init__(str(message))
        self.code = code


@dataclass
class Run:
    """What a training process works with."""

    args: Namespace
    ranks: Ranks
    loader: ClipLoader
    held_out: ClipLoader | None
    precision: Precision
    net: StatisticsNet
    parallel: nn.Module  # the net, its gradients averaged over the processes
    loss: StatisticsLoss
    optimizer: torch.optim.SGD
    scheduler: torch.optim.lr_scheduler.StepLR
    scaler: torch.amp.GradScaler
    report: Report
    folder: Path  # of the checkpoints
    skips: list[dict[str, Any]]  # reported by the loaders, not yet written down
    step: int = 0  # optimiser steps done
    saved: Path | None = None  # the last checkpoint

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds the state of, beside the loader's position."""
        names = ("net", "optimizer", "scheduler", "scaler")
        return {name: getattr(self, name) for name in names}

    @property
    def progress(self) -> float:
        """The part of the training that is done, from 0 to about 1."""
        args = self.args
        if args.steps is not None:
            return self.step / args.steps
        return self.loader.consumed / (args.epoch_num * self.loader.clips_per_epoch)

    @property
    def finished(self) -> bool:
        if self.args.steps is not None:
            return bool(self.step >= self.args.steps)
        return bool(self.loader.epoch >= self.args.epoch_num)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(FLOW_CHOICES, argv)
    who = "train.py"
    try:
        with joined(args.device) as ranks, stop_requests() as stop:
            if ranks.world_size > 1:
                who = f"train.py, rank {ranks.rank}"
            train(prepare(args, ranks), stop)
    except (Stop, NothingUsable, NoDevice, LoaderStopped, OSError) as error:
        print(f"{who}: {error}", file=sys.stderr)
        if isinstance(error, Stop):
            return error.code
        return 2 if isinstance(error, NothingUsable | NoDevice) else 1
    except KeyboardInterrupt:
        print(f"{who}: interrupted; --resume continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def prepare(args: Namespace, ranks: Ranks) -> Run:
    """Device, loader, model, loss, and the state to resume. Raises Stop where these cannot be."""
    torch.backends.cudnn.benchmark = True
    skips: list[dict[str, Any]] = []
    try:
        path, saved = ranks.share(find_checkpoint(args) if ranks.first else None)
        precision = choose(args.precision, ranks.device)
        check_clip_fits(args)
        with ranks.first_goes_first():  # the others find the index that the first has made
            loader, held_out = make_loaders(args, ranks, skips)
        if saved:
            loader.load_state_dict(saved["loader"])
    except (ValueError, OSError, BadVideo) as error:
        raise Stop(error, 2) from error

    torch.manual_seed(args.seed)  # the same weights in all processes
    backbone = BACKBONES[args.model](width=args.width)
    heads = HEADS[args.head](backbone.channels, args.motion_flag, args.app_flag, args.clip_len)
    net = StatisticsNet(backbone, heads)
    net.to(device=ranks.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if args.compile:
        net.compile()
    optimizer = make_optimizer(net, args)
    step = saved["step"] if saved else 0
    clips = args.epoch_num * loader.clips_per_epoch
    total = args.steps or -(-clips // (args.bs * ranks.world_size))
    name = saved["run"] if saved else ranks.share(ranks.first and new_run(args.log_dir, args.model))
    names = [NAMES[column] for column in heads.columns]
    run = Run(
        args,
        ranks,
        loader,
        held_out,
        precision,
        net,
        parallel=ranks.parallel(net, args.sync_bn),
        loss=LOSSES[args.head](heads, args.motion_w, args.app_w),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, args.step_s, args.gamma),
        scaler=torch.amp.GradScaler(ranks.device.type, enabled=precision.scaled),
        report=Report(args.log_dir / name if ranks.first else None, names, step + 1, total),
        folder=args.model_save_dir / name,
        skips=skips,
        step=step,
        saved=path,
    )
    torch.manual_seed(args.seed + ranks.rank)
    if saved:
        restore(run, saved)
    weights = sum(p.numel() for p in net.parameters())
    network = f"{args.model}, width {args.width:g}, {weights:,} weights"
    run.report.say(f"training {ranks.world_size} process(es) on {ranks.device} ({ranks.why})")
    run.report.say(f"network  {network}, {precision.name} ({precision.reason})")
    run.report.say(loader.describe())
    return run


def find_checkpoint(args: Namespace) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to resume from, if one is asked for and there is one."""
    if args.resume is None:
        return None, None
    place = args.model_save_dir if args.resume is True else Path(args.resume)
    found = checkpoint.newest(place)
    if found is None and args.resume is not True:
        raise ValueError(f"{place}: no checkpoint there")
    if found is None:
        print(f"no checkpoint under {place} yet: starting from the beginning")
        return None, None
    path, saved = found
    check_same_run(args, saved["args"])
    print(f"resuming {path}")
    return path, saved


def check_clip_fits(args: Namespace) -> None:
    """Raise ValueError if clips are too short or too small for the network's poolings."""
    thin = BACKBONES[args.model](width=0.01).eval().requires_grad_(False)
    try:
        thin(torch.zeros((1, args.clip_len, args.size, args.size, 3), dtype=torch.uint8))
    except RuntimeError as error:
        clip = f"{args.clip_len} frames of {args.size}x{args.size}"
        raise ValueError(f"{args.model} cannot take clips of {clip}: {error}") from error


def make_loaders(
    args: Namespace, ranks: Ranks, skips: list[dict[str, Any]]
) -> tuple[ClipLoader, ClipLoader | None]:
    """The clips to train on, and this process's share of those held out to measure accuracy on."""

    def on_skip(skip: Any) -> None:
        if args.on_bad_file == "stop":
            raise Stop(f"{skip.path}: {skip.stage}: {skip.reason} (--on-bad-file stop)", 2)
        skips.append(asdict(skip))

    common: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("clip_len", "size", "resize", "stride", "flow", "seed")
    }
    common |= {
        "rule": args.labels,
        "batch_size": args.bs,
        "device": ranks.device,
        "on_skip": on_skip,
    }
    source = open_source(
        args.videos, args.data_list, args.rgb_prefix, args.flow_x_prefix, args.flow_y_prefix
    )
    held_out = None
    if args.val_fraction:
        source, held = split(source, args.val_fraction, args.seed)
        share = range(ranks.rank, len(held), ranks.world_size)
        if share:
            held_out = ClipLoader(held.subset(share), sampling="even", num_workers=1, **common)
    common |= {"rank": ranks.rank, "world_size": ranks.world_size}
    common |= {name: getattr(args, name) for name in ("num_workers", "prefetch", "decode_threads")}
    return ClipLoader(source, clips_per_video=args.clips_per_video, **common), held_out


def make_optimizer(net: nn.Module, args: Namespace) -> torch.optim.SGD:
    """SGD as published: biases, those of batch norm too, learn at twice the rate."""
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    others = [p for name, p in net.named_parameters() if not name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": biases, "lr": 2 * args.lr}]
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum, weight_decay=args.wd)


def train(run: Run, stop: list[str]) -> None:
    """Train until finished, or until a signal turns up in `stop`; leave a checkpoint."""
    args, ranks, report = run.args, run.ranks, run.report
    saved_at, pictured_at = time.monotonic(), -float("inf")
    bad_steps = slots_unused = 0  # in a row
    run.parallel.train()
    while not run.finished:
        position, epoch = run.loader.state_dict(), run.loader.epoch
        began = time.perf_counter()
        batch = next_batch(run.loader, stop)
        waited = time.perf_counter() - began
        loaded = 0 if batch is None else len(batch)
        if args.curriculum and batch is not None:
            batch = clear_clips(run, batch)

        # All that the processes must agree on, in one exchange.
        clips = 0 if batch is None else len(batch)
        overdue = ranks.first and time.monotonic() - saved_at >= 60 * args.save_minutes
        votes = [clips, not clips, overdue, bool(stop), len(run.skips)]
        clips, without_clips, save_now, stop_now, skips = ranks.sum(torch.tensor(votes)).tolist()
        if skips:
            report.skipped(skip for several in ranks.gather(run.skips) for skip in several)
            run.skips.clear()
        if stop_now or batch is None:
            save(run, position)
            report.say(f"asked to stop ({stop[0] if stop else 'another process'}): saved")
            break

        if without_clips:  # the processes leave the step out together
            slots_unused += args.bs * ranks.world_size
            if slots_unused >= run.loader.clips_per_epoch:
                raise Stop("for a whole epoch, some process had no clip that could be read", 2)
        else:
            slots_unused = 0
            lr = run.optimizer.param_groups[0]["lr"]
            step_began = time.perf_counter()
            result = train_step(run, batch, clips)
            step_seconds = time.perf_counter() - step_began
            if result.taken:
                bad_steps = 0
                run.step += 1
                losses = (result.motion_loss, result.app_loss, result.label_errors)
                seconds = time.perf_counter() - began
                stages = run.loader.seconds_a_clip | {"step": step_seconds / loaded}
                ms = {stage: 1000 * a_clip for stage, a_clip in stages.items()}
                report.step(Step(run.step, epoch + 1, *losses, lr, clips, seconds, waited, ms))
                if ranks.first and time.monotonic() - pictured_at >= PICTURE_SECONDS:
                    report.picture("clip", picture(run, batch, result.predicted), run.step)
                    pictured_at = time.monotonic()
            elif not result.overflow:
                bad_steps += 1
                report_bad_step(run, batch, bad_steps)

        for _ in range(epoch, run.loader.epoch):
            run.scheduler.step()
        ended = run.loader.epoch > epoch
        if ended and args.val_fraction:
            validate(run, stop)
        if ended or save_now or run.finished:
            save(run, run.loader.state_dict())
            saved_at = time.monotonic()

    report.stages(args.num_workers)
    report.say(f"run folder   {report.folder}")
    report.say(f"TensorBoard  tensorboard --logdir {args.log_dir}")
    report.say(f"checkpoint   {run.saved}")
    report.close()


def next_batch(loader: ClipLoader, stop: list[str]) -> ClipBatch | None:
    """The next batch, or None after a request to stop."""
    try:
        return None if stop else loader.next_batch()
    except Exception:
        if stop:  # the signal went to the decoding workers too and ended them
            return None
        raise


def clear_clips(run: Run, batch: ClipBatch) -> ClipBatch:
    """What the curriculum takes of a batch: the clips with the clearest motion labels."""
    count = curriculum.kept(len(batch), run.args.curriculum, run.progress)
    if count == len(batch):
        return batch
    return batch.clips(curriculum.clearest(motion_confidence(batch.flow), count))


@dataclass(frozen=True)
class Result:
    """What came of a step. Losses are weighted, and of the clips of all processes."""

    taken: bool
    overflow: bool  # not taken because float16 gradients were scaled too far: nothing is wrong
    motion_loss: float
    app_loss: float
    label_errors: list[float]  # mean distance from each learned label
    predicted: Tensor  # [N,...], what the heads put out, motion first


def train_step(run: Run, batch: ClipBatch, clips: int) -> Result:
    """One optimiser step on a batch; `clips` is the size of the batches of all processes.

    Where loss or gradient are not finite, the network is left as it was.
    """
    device = run.ranks.device
    buffers = [(buffer, buffer.clone()) for buffer in run.net.buffers()]
    with nvtx_range("forward", device), run.precision.autocast():
        motion, app = run.parallel(batch.frames)  # [N,M], [N,A]
    motion_loss, app_loss = run.loss(motion, app, batch.labels, clips)
    # Every process has its share of the loss, a sum; gradients are averaged over the processes.
    with nvtx_range("backward", device):
        run.scaler.scale((motion_loss + app_loss) * run.ranks.world_size).backward()
    run.scaler.unscale_(run.optimizer)
    norm = nn.utils.get_total_norm(p.grad for p in run.net.parameters() if p.grad is not None)

    predicted = torch.cat([motion, app], dim=1).detach()
    values = run.net.heads.values(predicted)
    errors = absolute_errors(values, batch.labels[:, run.net.heads.columns], clips)
    shares = torch.cat([torch.stack([motion_loss, app_loss]).detach(), errors])
    motion_value, app_value, *label_errors = run.ranks.sum(shares).tolist()
    finite = isfinite(motion_value + app_value)
    taken = finite and isfinite(norm)  # the same in all processes
    if taken:
        with nvtx_range("optimizer", device):
            run.scaler.step(run.optimizer)
    else:
        for buffer, before in buffers:
            buffer.copy_(before)
    overflow = finite and not taken and run.scaler.is_enabled() and run.scaler.get_scale() > 1
    run.scaler.update()
    run.optimizer.zero_grad()
    return Result(taken, overflow, motion_value, app_value, label_errors, predicted)


def report_bad_step(run: Run, batch: ClipBatch, in_a_row: int) -> None:
    """Name the clips of a step that was not taken. Raises Stop after a few in a row."""
    starts = zip(batch.video.tolist(), batch.start.tolist(), strict=True)
    named = [f"{run.loader.paths[video]} from frame {start}" for video, start in starts]
    clips = ", ".join(clip for several in run.ranks.gather(named) for clip in several)
    run.report.say(f"loss or gradient not finite, step left out; its clips: {clips}")
    if in_a_row == BAD_STEPS:
        advice = "resume with --precision float32, or start anew with a lower --lr"
        raise Stop(f"{BAD_STEPS} steps in a row without a finite loss and gradient; {advice}", 1)


def validate(run: Run, stop: list[str]) -> None:
    """Accuracy of each label on the held-out videos of all processes, beside chance."""
    clips = once_each(run.held_out, stop) if run.held_out else ()
    counts = label_counts(run.net, clips, run.precision)
    accuracy, chance = accuracy_and_chance(*(run.ranks.sum(count) for count in counts))
    if run.ranks.sum(torch.tensor(bool(stop), dtype=torch.int64)):
        return  # not all clips were seen
    run.report.labels("val_accuracy", accuracy, run.step)
    run.report.labels("val_chance", chance, run.step)
    run.report.say(f"held out {mean(accuracy):.1%} of labels right, chance {mean(chance):.1%}")


def once_each(loader: ClipLoader, stop: list[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """(frames, labels) of every video once: the last batch runs on into the next round."""
    loader.set_epoch(-(-loader.consumed // loader.clips_per_epoch))
    epoch, seen = loader.epoch, set[int]()
    while loader.epoch == epoch and (batch := next_batch(loader, stop)) is not None:
        first = {video: n for n, video in enumerate(batch.video.tolist()) if video not in seen}
        seen.update(first)
        new = list(first.values())
        yield batch.frames[new], batch.labels[new]


def picture(run: Run, batch: ClipBatch, predicted: Tensor) -> ndarray:
    """The first clip of the batch with its labels and the predicted ones, uint8 [H,W,3]."""
    from dali_pipes.show import clip_picture  # takes a while to import

    nearest = run.net.heads.labels(predicted[:1])
    frames, flow, labels, guessed = (
        t[0].cpu().numpy() for t in (batch.frames, batch.flow, batch.labels, nearest)
    )
    title = run.loader.paths[int(batch.video[0])]
    return clip_picture(frames, flow, labels, run.args.labels, guessed, title)


def save(run: Run, position: dict[str, Any]) -> None:
    """Write a checkpoint with the loader's `position`, after the events of the steps before it."""
    generators = run.ranks.gather(checkpoint.generator_states(run.ranks.device))
    if not run.ranks.first:
        return
    state = {name: part.state_dict() for name, part in run.parts.items()}
    state |= {"loader": position, "generators": generators}
    state |= {"step": run.step, "run": run.folder.name, "args": plain(run.args)}
    try:
        run.report.flush()
        run.saved = checkpoint.save(run.folder, state, run.step, run.args.max_save_num)
    except OSError as error:
        raise Stop(f"no checkpoint written: {error}; the last one is {run.saved}", 1) from error


def restore(run: Run, saved: dict[str, Any]) -> None:
    """Continue from a checkpoint; the loader has its state already."""
    for name, part in run.parts.items():
        if saved[name]:  # a scaler that was off has no state
            part.load_state_dict(saved[name])
    if run.ranks.rank < len(saved["generators"]):
        checkpoint.set_generator_states(saved["generators"][run.ranks.rank], run.ranks.device)


if __name__ == "__main__":
    sys.exit(main())
