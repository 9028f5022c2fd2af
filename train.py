"""Pre-train a video network on spatio-temporal statistics: device, loader, model, loss, checkpoint.

python train.py --videos DIR
python train.py --reels REELS
python train.py --reels s3://BUCKET/REELS --cache DIR
python train.py --rgb_prefix RGB_DIR --flow_x_prefix FLOW_X_DIR --flow_y_prefix FLOW_Y_DIR
python train.py --videos DIR --resume
torchrun --nproc-per-node=4 train.py --videos DIR

Exit code 0: trained, or asked to stop (SIGTERM, SIGUSR1) and saved; 2: the flags or the input do
not allow it; 1: it went wrong on the way. --resume continues in each case.
"""

import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from torch import Tensor

from dali_pipes import ClipBatch, ClipLoader
from dali_pipes.decoding.opening import BadVideo, printable
from dali_pipes.flow import add_flow_argument
from dali_pipes.loader import NothingUsable, items_of
from dali_pipes.lock import locked
from dali_pipes.pipelines.running import LoaderStopped
from dali_pipes.sources import open_source, split
from dali_pipes.terminal import accept_all_names, ended
from kernels.labels.schema import NAMES
from kernels.stages import Clock
from model.networks.build import check_clips_fit, check_width
from model.training import checkpoint
from model.training.distributed import NoDevice, Ranks, joined
from model.training.learner import Learner, Queued, make_learner, train_step
from model.training.options import common, parse, plain
from model.training.precision import choose
from model.training.report import Report, Step, new_run
from model.training.restore import generator_states
from model.training.resume import find_checkpoint, run_of
from model.training.signals import next_batch, stop_requests
from model.training.validation import accuracy_and_chance, label_counts, once_each

BAD_STEPS = 5  # so many in a row without a finite loss and gradient end the run
ADVICE = "resume with --precision float32, or start anew with a lower --lr"
PICTURE_SECONDS = 300  # between two pictures of a labelled clip


class Stop(Exception):
    """Ends the run with one line and an exit code."""

    def __init__(self, message: object, code: int) -> None:
        super().__init__(str(message))
        self.code = code


@dataclass(frozen=True)
class Loaded:
    """A batch, or None after a request to stop, and when it came (time.perf_counter)."""

    batch: ClipBatch | None
    began: float
    waited: float  # seconds

    @property
    def clips(self) -> int:
        return 0 if self.batch is None else len(self.batch)


@dataclass(frozen=True)
class Unread:
    """A step on a batch, and what there is to report of it once its losses are read."""

    queued: Queued
    loaded: Loaded
    batch: ClipBatch
    clips: int  # of all processes
    epoch: int  # from 1
    lr: float
    seconds: float  # since it began to load
    seconds_a_clip: Mapping[str, float]  # of the stages


@dataclass
class Run(Learner):
    """What a training process works with."""

    args: Namespace
    loader: ClipLoader
    held_out: ClipLoader | None
    report: Report
    folder: Path  # of the checkpoints
    skips: list[dict[str, Any]]  # reported by the loaders, not yet written down
    clock: Clock
    step: int = 0  # optimiser steps done and read
    unread: deque[Unread] = field(default_factory=deque)
    saved: Path | None = None  # the last checkpoint
    saved_at: float = 0.0  # on time.monotonic's clock, as pictured_at
    pictured_at: float = -float("inf")
    bad_steps: int = 0  # in a row
    slots_unused: int = 0  # in a row
    told_unmeasured: bool = False

    @property
    def steps(self) -> int:
        """Optimiser steps done, as far as is known."""
        return self.step + sum(one.queued.may_count for one in self.unread)

    @property
    def finished(self) -> bool:
        if self.args.steps is not None:
            return bool(self.steps >= self.args.steps)
        return bool(self.loader.epoch >= self.args.epoch_num)


def main(argv: Sequence[str] | None = None) -> int:
    accept_all_names()
    args = parse(add_flow_argument, argv)
    who = "train.py"
    try:
        with joined(args.device) as ranks, stop_requests() as stop, ExitStack() as held:
            if ranks.world_size > 1:
                who = f"train.py, rank {ranks.rank}"
            train(prepare(args, ranks, held), stop)
    except (Stop, NothingUsable, NoDevice, LoaderStopped, OSError, MemoryError) as error:
        of_input = isinstance(error, NothingUsable | NoDevice)
        code = error.code if isinstance(error, Stop) else 2 if of_input else 1
        return ended(code, f"{who}: {error}")
    except KeyboardInterrupt:
        return ended(130, f"{who}: interrupted; --resume continues from the last checkpoint")
    return 0


def prepare(args: Namespace, ranks: Ranks, held: ExitStack) -> Run:
    """Device, loader, model, loss, and the state to resume. Raises Stop where these cannot be.

    `held` keeps the run's folder for this run alone.
    """
    torch.backends.cudnn.benchmark = True
    skips: list[dict[str, Any]] = []
    check_same(ranks, common(args) | {"the device": ranks.device.type})
    with beginning(ranks):
        found = find_checkpoint(args) if ranks.first else None
        precision = choose(args.precision, ranks.device)
        check_width(args.model, args.width)
        check_clips_fit(args.model, args.clip_len, args.size)
    path, saved = ranks.share(found)
    for first in (True, False):  # the others find the index that the first has made
        with beginning(ranks):
            if ranks.first is first:
                loader, held_out, held_items = make_loaders(args, ranks, skips)
                if saved:
                    loader.load_state_dict(saved["loader"])
    stream = loader.state_dict()["stream"]
    check_same(ranks, stream | {"held-out items": held_items, "the precision": precision.name})

    learner = make_learner(args, ranks, precision)
    step = saved["step"] if saved else 0
    clips = args.epoch_num * loader.clips_per_epoch
    total = args.steps or -(-clips // (args.bs * ranks.world_size))
    names = [NAMES[column] for column in learner.net.heads.columns]
    report = Report(None, names, step + 1, total)
    name = run_of(path, args.model_save_dir)
    with beginning(ranks):
        if ranks.first:
            name = name or new_run(args.log_dir, args.model_save_dir, args.model)
            held.enter_context(locked(args.model_save_dir / name / ".lock", "training"))
            weights = sum(p.nbytes for p in learner.net.parameters())
            checkpoint.check_room(args.model_save_dir / name, 2 * weights)  # and their momentum
            report = Report(args.log_dir / name, names, step + 1, total)
    run = Run(
        **vars(learner),
        args=args,
        loader=loader,
        held_out=held_out,
        report=report,
        folder=args.model_save_dir / ranks.share(name),
        skips=skips,
        clock=Clock(ranks.device),
        step=step,
        saved=path,
    )
    with beginning(ranks):
        if saved:
            run.restore(saved, path)
    run.report.say(f"training {ranks.world_size} process(es) on {ranks.device} ({ranks.why})")
    run.report.say(f"network  {args.model}, width {args.width:g}, {learner.words}")
    run.report.say(loader.describe())
    if args.val_fraction and all(ranks.gather(held_out is None)):
        unmeasured(run)
    return run


@contextmanager
def beginning(ranks: Ranks) -> Iterator[None]:
    """What fails in the block on one process ends all of them: raises Stop, exit code 2. Processes
    must not exchange anything in it."""
    failure = None
    try:
        yield
    except (Stop, ValueError, OSError, BadVideo) as error:
        failure = str(error)
    failures = ranks.gather(failure)
    if failure is not None:
        raise Stop(failure, 2)
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise Stop(f"rank {rank} cannot begin: {failure}", 2)


def check_same(ranks: Ranks, facts: dict[str, str]) -> None:
    """Raise Stop, on all processes, unless the facts are the same on all."""
    if different := ranks.differences(facts):
        raise Stop(f"{different}; give all processes the same data and flags", 2)


def make_loaders(
    args: Namespace, ranks: Ranks, skips: list[dict[str, Any]]
) -> tuple[ClipLoader, ClipLoader | None, str]:
    """The clips to train on; this process's share of those held out to measure accuracy on, if any
    can be used; and what all of these are."""

    def on_skip(skip: Any) -> None:
        if args.on_bad_file == "stop":
            raise Stop(f"{skip.path}: {skip.stage}: {skip.reason} (--on-bad-file stop)", 2)
        skips.append(asdict(skip))

    same = ["clip_len", "size", "resize", "stride", "flow", "seed"]
    same += ["stall_seconds", "fetch_ahead", "cache", "cache_size"]
    common: dict[str, Any] = {name: getattr(args, name) for name in same}
    common |= {"rule": args.labels, "batch_size": args.bs}
    common |= {"device": ranks.device, "node_ranks": ranks.of_node, "on_skip": on_skip}
    prefixes = (args.rgb_prefix, args.flow_x_prefix, args.flow_y_prefix)
    source = open_source(args.videos, args.data_list, *prefixes, args.reels, args.cache)
    held_out, held_items = None, "none"
    if args.val_fraction:
        source, held = split(source, args.val_fraction, args.seed)
        held_items = items_of(held)
        share = range(ranks.rank, len(held), ranks.world_size)
        if share:
            with suppress(NothingUsable):  # its videos are named
                held_out = ClipLoader(held.subset(share), sampling="even", num_workers=1, **common)
    common |= {"rank": ranks.rank, "world_size": ranks.world_size}
    common |= {name: getattr(args, name) for name in ("num_workers", "prefetch", "decode_threads")}
    loader = ClipLoader(source, clips_per_video=args.clips_per_video, **common)
    return loader, held_out, held_items


def train(run: Run, stop: list[str]) -> None:
    """Train until finished, or until a signal turns up in `stop`; leave a checkpoint."""
    run.saved_at = time.monotonic()
    run.parallel.train()
    while not run.finished:
        position, epoch = run.loader.state_dict(), run.loader.epoch
        loaded = load(run, stop)
        agreed = agree(run, loaded, stop)
        if agreed.stop or loaded.batch is None:
            read_steps(run)
            save(run, position)
            run.report.say(f"asked to stop ({stop[0] if stop else 'another process'}): saved")
            break
        if agreed.leave_out:
            leave_out(run)
        else:
            learn(run, loaded, agreed.clips, epoch)

        for _ in range(epoch, run.loader.epoch):
            run.scheduler.step()
        ended = run.loader.epoch > epoch
        if ended or agreed.save or run.finished:
            read_steps(run)
        if ended and run.args.val_fraction:
            validate(run, stop)
        if ended or agreed.save or run.finished:
            save(run, run.loader.state_dict())
            run.saved_at = time.monotonic()

    run.report.end(run.args.num_workers, run.saved)


def load(run: Run, stop: list[str]) -> Loaded:
    """The next batch, its labels those of other clips if that is wanted."""
    began = time.perf_counter()
    batch = next_batch(run.loader, stop)
    waited = time.perf_counter() - began
    if run.args.shuffle_labels and batch is not None:
        batch = replace(batch, labels=batch.labels.roll(1, dims=0))
    return Loaded(batch, began, waited)


@dataclass(frozen=True)
class Agreed:
    """What all processes do next, the same in all of them."""

    clips: int  # of all processes together
    leave_out: bool  # some process has none: all leave the step out together
    save: bool
    stop: bool


def agree(run: Run, loaded: Loaded, stop: list[str]) -> Agreed:
    """All that the processes must agree on, and the losses of the step that is to be read next, in
    one exchange. Skipped files are written down."""
    overdue = run.ranks.first and time.monotonic() - run.saved_at >= 60 * run.args.save_minutes
    read = run.unread.popleft() if len(run.unread) > run.ahead else None
    votes = torch.tensor([loaded.clips, not loaded.clips, overdue, bool(stop), len(run.skips)])
    shares = read.queued.shares() if read else torch.empty(0)
    clips, without_clips, save_now, stop_now, skips, *losses = sums(run, torch.cat([votes, shares]))
    if read:
        report_step(run, read, losses)
    if skips:
        name_skipped(run)
    return Agreed(int(clips), without_clips > 0, save_now > 0, stop_now > 0)


def name_skipped(run: Run) -> None:
    """Write down the files that the loaders of all processes left out."""
    run.report.skipped(skip for several in run.ranks.gather(run.skips) for skip in several)
    run.skips.clear()


def leave_out(run: Run) -> None:
    """Go on without a step. Raises Stop where a whole epoch had none."""
    run.slots_unused += run.args.bs * run.ranks.world_size
    if run.slots_unused >= run.loader.clips_per_epoch:
        raise Stop("for a whole epoch, some process had no clip that could be read", 2)


def learn(run: Run, loaded: Loaded, clips: int, epoch: int) -> None:
    """A step on a batch; `clips` are those of all processes. What came of it is read when they
    agree on the next, or the next but one on a GPU, which is at the next by then."""
    assert loaded.batch is not None
    run.slots_unused = 0
    lr = run.optimizer.param_groups[0]["lr"]
    with run.clock.stage("step", loaded.clips):
        queued = train_step(run, loaded.batch, clips)
    seconds = time.perf_counter() - loaded.began
    stages = run.loader.seconds_a_clip | run.clock.seconds_a_clip()
    run.unread.append(Unread(queued, loaded, loaded.batch, clips, epoch + 1, lr, seconds, stages))
    if run.ranks.world_size == 1 and not run.ahead:  # there is nothing to wait for
        read_steps(run)


def read_steps(run: Run) -> None:
    """Read and report all steps that were queued; all processes together."""
    while run.unread:
        read = run.unread.popleft()
        report_step(run, read, sums(run, read.queued.shares()))


def sums(run: Run, values: Tensor) -> list[float]:
    """Of all processes; exact until they are rounded to float32 in the end."""
    return run.ranks.sum(values.double()).float().tolist()


def report_step(run: Run, read: Unread, losses: Sequence[float]) -> None:
    """`losses`: the losses and label errors of all processes."""
    result = read.queued.result(losses)
    if not result.taken:
        if not result.overflow:
            report_bad_step(run, read.batch)
        return
    run.bad_steps = 0
    run.step += 1
    reported = (result.motion_loss, result.app_loss, result.label_errors)
    ms = {stage: 1000 * a_clip for stage, a_clip in read.seconds_a_clip.items()}
    between = 1000 * read.seconds / read.loaded.clips if run.ahead else None
    times = (read.seconds, read.loaded.waited, ms)
    run.report.step(Step(run.step, read.epoch, *reported, read.lr, read.clips, *times, between))
    if run.ranks.first and time.monotonic() - run.pictured_at >= PICTURE_SECONDS:
        run.report.picture("clip", picture(run, read.batch, result.predicted), run.step)
        run.pictured_at = time.monotonic()


def report_bad_step(run: Run, batch: ClipBatch) -> None:
    """Name the clips of a step that was not taken. Raises Stop after a few in a row."""
    run.bad_steps += 1
    starts = zip(batch.video.tolist(), batch.start.tolist(), strict=True)
    named = [f"{printable(run.loader.paths[video])} from frame {start}" for video, start in starts]
    clips = ", ".join(clip for several in run.ranks.gather(named) for clip in several)
    run.report.say(f"loss or gradient not finite, step left out; its clips: {clips}")
    if run.bad_steps == BAD_STEPS:
        raise Stop(f"{BAD_STEPS} steps in a row without a finite loss and gradient; {ADVICE}", 1)


def validate(run: Run, stop: list[str]) -> None:
    """Accuracy of each label on the held-out videos of all processes, beside chance."""
    counts = label_counts(run.net, held_out_clips(run, stop), run.precision)
    hits, occurred = (run.ranks.sum(count) for count in counts)
    name_skipped(run)
    if run.ranks.sum(torch.tensor(bool(stop), dtype=torch.int64)):
        return  # not all clips were seen
    if occurred.any():
        run.report.validation(*accuracy_and_chance(hits, occurred), run.step)
    else:
        unmeasured(run)


def held_out_clips(run: Run, stop: list[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """(frames, labels) of this process's held-out videos, as far as they can be used."""
    if run.held_out:
        try:
            yield from once_each(run.held_out, stop)
        except NothingUsable:  # its videos are named
            run.held_out = None


def unmeasured(run: Run) -> None:
    """Say, once, that there is no accuracy."""
    if not run.told_unmeasured:
        run.report.say("no held-out video can be used, each is named: nothing is measured on them")
    run.told_unmeasured = True


def picture(run: Run, batch: ClipBatch, predicted: Tensor) -> ndarray:
    """The first clip of the batch with its labels and the predicted ones, uint8 [H,W,3]."""
    from dali_pipes.drawing.picture import clip_picture  # takes a while to import

    nearest = run.net.heads.labels(predicted[:1])
    frames, flow, labels, guessed = (
        t[0].cpu().numpy() for t in (batch.frames, batch.flow, batch.labels, nearest)
    )
    title = run.loader.paths[int(batch.video[0])]
    return clip_picture(frames, flow, labels, run.args.labels, guessed, title)


def save(run: Run, position: dict[str, Any]) -> None:
    """Write a checkpoint with the loader's `position`, after the events of the steps before it."""
    generators = run.ranks.gather(generator_states(run.ranks.device))
    if not run.ranks.first:
        return
    state = run.state() | {"loader": position, "generators": generators}
    state |= {"step": run.step, "args": plain(run.args)}
    try:
        run.report.flush()
        run.saved = checkpoint.save(run.folder, state, run.step, run.args.max_save_num)
    except OSError as error:
        raise Stop(f"no checkpoint written: {error}; the last one is {run.saved}", 1) from error
    except checkpoint.NotFinite as error:
        raise Stop(f"{error}; {ADVICE}; the last checkpoint is {run.saved}", 1) from error


if __name__ == "__main__":
    sys.exit(main())
