"""What a run leaves for people: TensorBoard events, skipped.jsonl, and lines on the terminal."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dali_pipes.decoding.opening import printable
from dali_pipes.terminal import printable_lines
from model.training.checkpoint import check_room
from model.training.stages import Stages

LINE_SECONDS = 5.0  # between two lines where there is no progress bar
ERROR_STEPS = 10  # per-label errors are averaged over so many steps


def new_run(log_dir: Path, save_dir: Path, name: str) -> str:
    """A name for a run's folders that starts with `name`, taken by making both: no other has it."""
    start = f"{name}_{datetime.now():%Y%m%d-%H%M%S}"
    for candidate in chain([start], (f"{start}-{n}" for n in count(2))):
        made: list[Path] = []
        try:
            for folder in sorted({save_dir.resolve(), log_dir.resolve()}):  # they may be one
                (folder / candidate).mkdir(parents=True)
                made.append(folder / candidate)
        except FileExistsError:
            for taken in made:
                taken.rmdir()
        else:
            return candidate
    raise AssertionError("the names are endless")


@dataclass(frozen=True)
class Step:
    """What one optimiser step was like. Losses are weighted, and means over all processes."""

    number: int  # from 1
    epoch: int  # from 1
    motion_loss: float
    app_loss: float
    label_errors: Sequence[float]  # mean distance from each learned label
    lr: float
    clips: int  # on all processes
    seconds: float
    seconds_waiting: float  # of these, for data
    ms_a_clip: Mapping[str, float]  # of each stage that is known, on rank 0
    ms_between: float | None = None  # steps, a clip, there; of a GPU


class Report:
    """The run folder and the terminal of rank 0; other ranks make one with `folder` None, mute.

    `first` is the step that training starts with, `total` the one it is expected to end with.
    """

    def __init__(self, folder: Path | None, names: Sequence[str], first: int, total: int) -> None:
        self.folder = folder
        self._names = names
        self._total = total
        self._last_line = 0.0
        self._errors: list[Sequence[float]] = []
        self._stages = Stages()
        self._events_lost = False
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        check_room(folder, 2**20)
        threading.excepthook = _unless_writer
        # After a crash the events hold steps that are now done again: TensorBoard drops them.
        self._writer = SummaryWriter(str(folder), purge_step=first if first > 1 else None)
        self._skipped = folder / "skipped.jsonl"
        self._known = _paths(self._skipped)
        self._skipped.touch()
        self._bar = tqdm(
            total=total, initial=first - 1, unit="step", disable=not sys.stderr.isatty()
        )

    def say(self, text: str) -> None:
        """A line on the terminal, past the progress bar."""
        if self.folder is not None:
            tqdm.write(printable_lines(text))
            sys.stdout.flush()

    def step(self, step: Step) -> None:
        """The losses of every step, and how it went."""
        if self.folder is None:
            return
        loss = step.motion_loss + step.app_loss
        waiting = step.seconds_waiting / step.seconds
        clips_per_second = step.clips / step.seconds
        values = {
            "motion_loss": step.motion_loss,
            "app_loss": step.app_loss,
            "mse_loss": loss,
            "lr": step.lr,
            "clips_per_second": clips_per_second,
            "share_waiting_for_data": waiting,
            **{f"ms_a_clip/{stage}": ms for stage, ms in step.ms_a_clip.items()},
        }
        self._scalars(values, step.number)
        self._stages.add(step.ms_a_clip, step.ms_between)
        self._errors.append(step.label_errors)
        if step.number == 1 or step.number % ERROR_STEPS == 0:
            self.labels("label_error", np.mean(self._errors, axis=0), step.number)
            self._errors.clear()
        self._bar.set_postfix_str(f"epoch {step.epoch}, loss {loss:.3f}", refresh=False)
        self._bar.update()
        now = time.monotonic()
        edge = step.number in (1, self._total)
        if self._bar.disable and (edge or now - self._last_line >= LINE_SECONDS):
            self._last_line = now
            self.say(
                f"step {step.number}/{self._total}  epoch {step.epoch}  loss {loss:.4f} "
                f"(motion {step.motion_loss:.4f}, appearance {step.app_loss:.4f})  "
                f"lr {step.lr:.3g}  {clips_per_second:.1f} clips/s  {waiting:.0%} waiting for data"
            )

    def validation(self, accuracy: Sequence[float], chance: Sequence[float], step: int) -> None:
        """How often each learned label was right on held-out clips, beside chance."""
        self.labels("val_accuracy", accuracy, step)
        self.labels("val_chance", chance, step)
        self.say(f"held out {mean(accuracy):.1%} of labels right, chance {mean(chance):.1%}")

    def labels(self, tag: str, values: Iterable[float], step: int) -> None:
        """A value for each learned label."""
        named = zip(self._names, values, strict=True)
        self._scalars({f"{tag}/{name}": value for name, value in named}, step)

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._log(SummaryWriter.add_scalar, tag, value, step)

    def picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        """uint8 [H,W,3]."""
        self._log(SummaryWriter.add_image, tag, picture, step, dataformats="HWC")

    def skipped(self, entries: Iterable[dict[str, Any]]) -> None:
        """Bad files as {path, stage, reason, ...}: each is named once in a run, on the terminal
        and in skipped.jsonl, also if the run was resumed or several ranks met it."""
        if self.folder is None:
            return
        new = {entry["path"]: entry for entry in entries if entry["path"] not in self._known}
        if not new:
            return
        self._known.update(new)
        for path, entry in new.items():
            self.say(f"skipped: {printable(path)}: {entry['reason']} ({entry['stage']})")
        try:
            with open(self._skipped, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in new.values())
        except OSError as error:
            self.say(f"warning: {self._skipped}: cannot be written ({error.strerror})")

    def flush(self) -> None:
        """Events reach the disk, so that no step before a checkpoint is ever missing."""
        self._log(SummaryWriter.flush)

    def end(self, workers: int, checkpoint: Path | None) -> None:
        """What bounded the run, and where to find what it leaves."""
        if self.folder is None:
            return
        if summary := self._stages.summary(workers):
            self.say(f"stages       {summary}")
        self.say(f"run folder   {self.folder}")
        self.say(f"TensorBoard  tensorboard --logdir {self.folder.parent}")
        self.say(f"checkpoint   {checkpoint}")
        self.close()

    def close(self) -> None:
        if self.folder is not None:
            self._bar.close()
            self._log(SummaryWriter.close)

    def _log(self, write: Callable[..., None], *what: Any, **how: Any) -> None:
        """Write events. If that fails, training goes on without them: they are worth less."""
        if self.folder is None or self._events_lost:
            return
        try:
            write(self._writer, *what, **how)
        except OSError as error:
            self._events_lost = True
            self.say(
                f"warning: {self.folder}: events cannot be written ({error.strerror}); training "
                "goes on without them. To have them again, stop it, make room, and --resume"
            )


_hook = threading.excepthook


def _unless_writer(failed: threading.ExceptHookArgs) -> None:
    """What stops TensorBoard's writing thread is raised again where events are written."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        _hook(failed)


def _paths(skipped: Path) -> set[str]:
    """The files that an earlier start of the run has named already."""
    known = set()
    for line in skipped.read_text(encoding="utf-8").splitlines() if skipped.exists() else ():
        with suppress(ValueError):  # a crash may have cut the last line
            known.add(json.loads(line)["path"])
    return known
