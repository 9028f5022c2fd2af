"""Training: bit-for-bit repeat and resume, bias rates, the guard, TensorBoard, user errors.

Most tests run `train.main` in this process on synthetic clips, with a C3D of width 0.05.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

import train
from dali_pipes import ClipBatch
from dali_pipes.decoding.opening import BadVideo
from dali_pipes.sources import Synthetic, split
from kernels.labels.schema import NAMES
from model.networks.build import statistics_net
from model.networks.heads import StatisticsNet
from model.training import learner
from model.training.learner import Result
from model.training.options import parse

ROOT = Path(__file__).parent.parent
SMALL = "--width 0.05 --clip_len 8 --size 32 --resize 36x48 --num_workers 0 --precision float32"
Train = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Run train.py on six synthetic videos with small clips: returns the exit code."""
    monkeypatch.setattr(train, "open_source", lambda *_: Synthetic.make(6, 16, (48, 64)))
    monkeypatch.setattr(train, "picture", lambda *_: np.zeros((8, 8, 3), np.uint8))
    # Event files of one second are told apart by a count of this process, and read by name.
    monkeypatch.setattr(event_file_writer._global_uid, "_value", 1000)

    def run(flags: str, out: str = "a") -> int:
        folders = f"--log_dir {tmp_path / out / 'logs'} --model_save_dir {tmp_path / out / 'saved'}"
        return train.main(f"--videos synthetic {SMALL} {folders} {flags}".split())

    return run


def events(out: Path) -> EventAccumulator:
    (folder,) = (out / "logs").iterdir()
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def losses(out: Path) -> dict[int, float]:
    return {event.step: event.value for event in events(out).Scalars("mse_loss")}


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "saved").rglob("*.pt"))


def weights(out: Path) -> dict[str, torch.Tensor]:
    newest = max((out / "saved").rglob("*.pt"), key=lambda path: path.name)
    net = torch.load(newest, weights_only=True)["net"]
    return {name: value for name, value in net.items() if isinstance(value, torch.Tensor)}


def assert_equal_runs(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    assert all(torch.equal(w, weights(other)[name]) for name, w in weights(one).items())


def test_same_seed_same_losses_bit_for_bit(run: Train, tmp_path: Path) -> None:
    assert run("--steps 3 --bs 2", "a") == run("--steps 3 --bs 2", "b") == 0
    assert run("--steps 3 --bs 2 --seed 1", "c") == 0
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_resumed_equals_uninterrupted_bit_for_bit(
    run: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through a checkpoint inside an epoch and one at a fall of the learning rate."""
    flags = "--bs 4 --step_s 1 --gamma 0.5 --max_save_num 2"  # 1.5 batches an epoch
    assert run(f"{flags} --steps 7", "whole") == 0
    for steps in (1, 3, 7):
        assert run(f"{flags} --steps {steps} --resume", "parts") == 0
    assert "no checkpoint under" in capsys.readouterr().out  # the first time
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert checkpoints(tmp_path / "parts") == ["step_00000006.pt", "step_00000007.pt"]
    rates = [event.value for event in events(tmp_path / "parts").Scalars("lr")]
    # Epochs of 6 clips end after 4, 8 (1 epoch), 12 (2), 16, 20 (3), 24 (4), 28 clips.
    np.testing.assert_allclose(rates, 5e-4 * 0.5 ** np.array([0, 0, 1, 2, 2, 3, 4]), rtol=1e-6)


def test_after_a_crash_the_steps_done_twice_count_once(run: Train, tmp_path: Path) -> None:
    assert run("--bs 2 --steps 4 --save_minutes 0 --max_save_num 9", "whole") == 0
    assert run("--bs 2 --steps 4 --save_minutes 0 --max_save_num 9", "crashed") == 0
    for late in (3, 4):  # as if it had been killed before these were written
        next((tmp_path / "crashed").rglob(f"step_{late:08d}.pt")).unlink()
    assert run("--bs 2 --steps 4 --resume", "crashed") == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "crashed")
    assert [event.step for event in events(tmp_path / "crashed").Scalars("mse_loss")] == [
        1,
        2,
        3,
        4,
    ]


def test_a_resumed_run_must_be_the_same_run(run: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--steps 1") == 0
    assert run("--steps 2 --resume --lr 1e-3") == 2
    assert run("--steps 2 --resume --seed 1") == 2
    assert run("--steps 2 --resume /no/such/place") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 1)[1].split(" (")[0] for line in lines] == [
        "the checkpoint was made with --lr 0.0005, not 0.001; pass the same, or start anew "
        "without --resume",
        "the checkpoint was made with --seed 0, not 1; pass the same, or start anew "
        "without --resume",
        "/no/such/place: no checkpoint there",
    ]


def test_published_tags_from_step_one_and_weights_in_the_losses(run: Train, tmp_path: Path) -> None:
    assert run("--steps 2 --bs 2 --motion_w 1 --app_w 0.1", "a") == 0
    assert run("--steps 1 --bs 2 --motion_w 3 --app_w 0.5", "b") == 0
    a, b = events(tmp_path / "a"), events(tmp_path / "b")
    motion, app, total = (
        np.array([event.value for event in a.Scalars(tag)])
        for tag in ("motion_loss", "app_loss", "mse_loss")
    )
    assert [event.step for event in a.Scalars("mse_loss")] == [1, 2]
    np.testing.assert_allclose(motion + app, total, rtol=1e-6)
    np.testing.assert_allclose(b.Scalars("motion_loss")[0].value, 3 * motion[0], rtol=1e-5)
    np.testing.assert_allclose(b.Scalars("app_loss")[0].value, 5 * app[0], rtol=1e-5)
    tags = a.Tags()
    assert {f"label_error/{name}" for name in NAMES} < set(tags["scalars"])
    assert {"lr", "clips_per_second", "share_waiting_for_data"} < set(tags["scalars"])
    assert tags["images"] == ["clip"]


def test_times_of_the_stages_are_in_every_step_and_summed_up(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, steps_ms = train.train_step, []

    def slow(*arguments: object) -> object:
        began = time.perf_counter()
        time.sleep(0.3)  # beside which what surrounds a step is nothing
        result = real(*arguments)
        steps_ms.append(1000 * (time.perf_counter() - began))
        return result

    monkeypatch.setattr(train, "train_step", slow)
    assert run("--steps 5 --bs 4 --device cpu") == 0
    found = events(tmp_path / "a")
    names = {tag for tag in found.Tags()["scalars"] if tag.startswith("ms_a_clip/")}
    stages = {tag: [event.value for event in found.Scalars(tag)] for tag in names}
    assert {tag.split("/")[1] for tag in names} == {"waiting", "decode", "flow", "labels", "step"}
    assert all(len(values) == 5 and min(values) > 0 for values in stages.values())
    np.testing.assert_allclose(stages["ms_a_clip/step"], np.array(steps_ms) / 4, rtol=0.3)
    out = capsys.readouterr().out
    means = ", ".join(
        f"{stage} {np.mean(stages[f'ms_a_clip/{stage}'][3:]):.1f}"
        for stage in ("waiting", "decode", "flow", "labels", "step")
    )
    assert f"stages       {means} ms a clip; 0 workers; bound by " in out
    assert "on cpu (asked for)\n" in out
    assert "device   cpu\n" in out  # the reason is told once, where it is known


def test_biases_learn_at_twice_the_rate(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    original = learner.make_optimizer

    def spy(net: torch.nn.Module, args: object, fused: None) -> torch.optim.SGD:
        optimizer = original(net, args, fused)
        seen.update({id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]})
        seen["names"] = {name: id(p) for name, p in net.named_parameters()}
        return optimizer

    monkeypatch.setattr(learner, "make_optimizer", spy)
    assert run("--steps 1 --lr 1e-3") == 0
    rates = {name: seen[identity] for name, identity in seen["names"].items()}
    assert len(rates) == 2 * 8 * 2 + 2 * 2  # weight and bias of 8 convolutions, 8 norms, 2 heads
    assert all(rate == (2e-3 if name.endswith("bias") else 1e-3) for name, rate in rates.items())


def test_the_network_learns_a_fixed_batch(run: Train, tmp_path: Path) -> None:
    """Far below what the best constant prediction of each label reaches."""
    assert run("--steps 1 --bs 6", "start") == 0
    state = run_objects(run, "--steps 60 --bs 6 --lr 5e-3 --wd 0", "fixed")
    batch = state.loader.next_batch()
    labels = batch.labels.float()
    constant = labels.var(dim=0, unbiased=False)
    best_constant = constant[:14].mean() + 0.1 * constant[14:].mean()
    state.parallel.train()
    values = [trained_on(state, batch) for _ in range(60)]
    totals = [value.motion_loss + value.app_loss for value in values]
    assert totals[0] > best_constant > 2 * totals[-1]


def trained_on(state: train.Run, batch: ClipBatch) -> Result:
    """Train on a batch, and look at once what came of it."""
    queued = train.train_step(state, batch, len(batch))
    return queued.result(queued.shares().tolist())


def run_objects(run: Train, flags: str, out: str) -> train.Run:
    """What `train.prepare` makes of the flags."""
    made = []
    patch = pytest.MonkeyPatch()
    patch.setattr(train, "train", lambda state, stop: made.append(state))
    try:
        assert run(flags, out) == 0
    finally:
        patch.undo()
    return made[0]


def test_a_step_that_is_not_finite_leaves_the_network_alone(
    run: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = run_objects(run, "--steps 5 --bs 2", "guard")
    state.parallel.train()
    batch = state.loader.next_batch()
    assert trained_on(state, batch).taken
    before = {name: value.clone() for name, value in state.net.named_parameters()}
    buffers = {name: value.clone() for name, value in state.net.named_buffers()}
    hook = state.net.backbone.register_forward_hook(lambda *_: torch.full((2, 26), torch.inf))
    result = trained_on(state, batch)
    hook.remove()
    assert not result.taken
    assert not result.overflow
    assert all(torch.equal(value, before[name]) for name, value in state.net.named_parameters())
    assert all(torch.equal(value, buffers[name]) for name, value in state.net.named_buffers())
    assert trained_on(state, batch).taken  # and training goes on

    # A gradient alone can be at fault.
    grown = state.net.heads.motion.weight.register_hook(lambda gradient: gradient * torch.nan)
    result = trained_on(state, batch)
    grown.remove()
    assert not result.taken
    assert np.isfinite(result.motion_loss)


def test_steps_that_stay_not_finite_end_the_run_and_name_their_clips(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(StatisticsNet, "forward", not_finite)
    assert run("--steps 9 --bs 2", "a") == 1
    out, err = capsys.readouterr()
    left_out = [line for line in out.splitlines() if "not finite" in line]
    assert len(left_out) == train.BAD_STEPS
    assert all(line.count("synthetic/") == 2 for line in left_out)
    assert err.count("\n") == 1
    assert "lower --lr" in err


def not_finite(self: torch.nn.Module, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
    motion, app = self.heads(self.backbone(frames))
    return motion * torch.nan, app


class OneBad(Synthetic):
    """Synthetic videos of which one cannot be decoded."""

    def read_clip(self, item, numbers, resize):  # type: ignore[no-untyped-def]
        if item == 2:
            raise BadVideo(self.paths[item], "decode", "it is broken")
        return super().read_clip(item, numbers, resize)


def test_bad_clips_shorten_the_batch_and_are_named_once(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = OneBad.make(6, 16, (48, 64))
    bad = source.paths[2]
    monkeypatch.setattr(train, "open_source", lambda *_: source)
    assert run("--steps 6 --bs 1", "a") == 0  # a step without clips does not count
    assert run("--steps 10 --bs 1 --resume", "a") == 0
    assert list(losses(tmp_path / "a")) == list(range(1, 11))
    (file,) = (tmp_path / "a").rglob("skipped.jsonl")
    (line,) = map(json.loads, file.read_text().splitlines())
    assert (line["path"], line["stage"], line["reason"]) == (bad, "decode", "it is broken")
    assert capsys.readouterr().out.count(f"skipped: {bad}: it is broken (decode)") == 1

    assert run("--steps 6 --bs 1 --on-bad-file stop", "b") == 2
    assert bad in capsys.readouterr().err


def test_nothing_readable_ends_the_run(
    run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = OneBad.make(6, 16, (48, 64)).subset([2])
    monkeypatch.setattr(OneBad, "read_clip", raise_broken)
    monkeypatch.setattr(train, "open_source", lambda *_: source)
    assert run("--steps 6 --bs 1") == 2
    assert source.paths[0] in capsys.readouterr().err


def raise_broken(self: Synthetic, item: int, numbers: object, resize: object) -> None:
    raise BadVideo(self.paths[item], "decode", "it is broken")


def test_classification_learns_and_resumes(run: Train, tmp_path: Path) -> None:
    flags = "--bs 3 --head classification --lr 0.01 --motion_flag 1,0,0,1 --val_fraction 0.2"
    assert run(f"--steps 8 {flags}", "whole") == 0
    assert run(f"--steps 3 {flags}", "parts") == run(f"--steps 8 {flags} --resume", "parts") == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    found = events(tmp_path / "whole")
    # Before anything is learned the cross-entropy is about that of a guess among the classes.
    guess = np.mean(np.log([16, 8, 16, 8, 7, 7]))
    assert found.Scalars("motion_loss")[0].value == pytest.approx(guess, abs=0.5)
    assert 0 <= found.Scalars("label_error/u1p")[0].value <= 15
    assert len(found.Scalars("val_accuracy/ug")) == len(found.Scalars("val_chance/gc")) > 0


def test_geometric_learns_and_resumes(run: Train, tmp_path: Path) -> None:
    flags = "--bs 3 --head geometric --lr 0.01 --motion_flag 1,0,0,1 --val_fraction 0.2"
    assert run(f"--steps 8 {flags}", "whole") == 0
    assert run(f"--steps 3 {flags}", "parts") == run(f"--steps 8 {flags} --resume", "parts") == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    found = events(tmp_path / "whole")
    # Before anything is learned a guess is wrong by about 1 in the mean.
    assert found.Scalars("motion_loss")[0].value == pytest.approx(1, abs=0.4)
    assert 0 <= found.Scalars("label_error/u1p")[0].value <= 15
    assert len(found.Scalars("val_accuracy/ug")) == len(found.Scalars("val_chance/gc")) > 0


def test_shuffled_labels_are_those_of_other_clips_of_the_batch(
    run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, seen = train.train_step, {}

    def step(state: train.Run, batch: train.ClipBatch, clips: int) -> object:
        seen.setdefault(state.args.shuffle_labels, []).append(batch)
        return real(state, batch, clips)

    monkeypatch.setattr(train, "train_step", step)
    assert run("--steps 3 --bs 3", "a") == run("--steps 3 --bs 3 --shuffle_labels", "b") == 0
    for true, shuffled in zip(seen[False], seen[True], strict=True):
        assert torch.equal(true.frames, shuffled.frames)
        assert torch.equal(true.labels[[2, 0, 1]], shuffled.labels)
    assert len(seen[True]) == 3
    with pytest.raises(SystemExit):
        run("--bs 1 --shuffle_labels")
    assert "--shuffle_labels needs batches of two clips" in capsys.readouterr().err


def test_held_out_videos_are_measured_beside_chance(run: Train, tmp_path: Path) -> None:
    assert run("--bs 4 --epoch_num 2 --val_fraction 0.5 --motion_flag 0,0,0,1") == 0
    found = events(tmp_path / "a")
    names = {"ug", "vg", *NAMES[14:]}
    for tag in ("val_accuracy", "val_chance"):
        assert {name for name in NAMES if f"{tag}/{name}" in found.Tags()["scalars"]} == names
    values = [event.value for event in found.Scalars("val_chance/gc")]
    assert len(values) == 2
    assert all(round(value * 3, 4) in (1, 2, 3) for value in values)  # of three held-out videos


@dataclass(frozen=True)
class SomeBad(Synthetic):
    """Synthetic videos of which some fail in a stage."""

    bad: tuple[str, ...] = ()
    stage: str = ""

    def fail(self, item: int, stage: str) -> None:
        if self.paths[item] in self.bad and self.stage == stage:
            raise BadVideo(self.paths[item], stage, "it is broken")

    def probe(self, item):  # type: ignore[no-untyped-def]
        self.fail(item, "open")
        return super().probe(item)

    def read_clip(self, item, numbers, resize):  # type: ignore[no-untyped-def]
        self.fail(item, "decode")
        return super().read_clip(item, numbers, resize)


@pytest.mark.parametrize("stage", ["open", "decode"])
def test_held_out_videos_that_are_all_bad_are_named_and_training_goes_on(
    run: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
) -> None:
    source = SomeBad.make(6, 16, (48, 64))
    held_out = split(source, 0.4, 0)[1].paths
    source = replace(source, bad=tuple(held_out), stage=stage)
    monkeypatch.setattr(train, "open_source", lambda *_: source)
    assert run("--epoch_num 2 --bs 4 --val_fraction 0.4") == 0
    out = capsys.readouterr().out
    assert out.count("no held-out video can be used, each is named: nothing is measured") == 1
    assert [out.count(f"skipped: {path}: it is broken ({stage})") for path in held_out] == [1, 1]
    assert not any(tag.startswith("val_") for tag in events(tmp_path / "a").Tags()["scalars"])
    (file,) = (tmp_path / "a").rglob("skipped.jsonl")
    assert {json.loads(line)["path"] for line in file.open()} == set(held_out)
    assert len(losses(tmp_path / "a")) == 2


def test_a_signal_saves_and_ends_cleanly(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = train.train_step

    def step(state: train.Run, *arguments: object) -> object:
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(state, *arguments)

    monkeypatch.setattr(train, "train_step", step)
    assert run("--bs 4 --steps 6", "stopped") == 0
    assert checkpoints(tmp_path / "stopped")[-1] == "step_00000003.pt"
    assert "asked to stop (SIGUSR1)" in capsys.readouterr().out
    monkeypatch.setattr(train, "train_step", original)
    assert run("--bs 4 --steps 6 --resume", "stopped") == 0
    assert run("--bs 4 --steps 6", "whole") == 0
    assert_equal_runs(tmp_path / "stopped", tmp_path / "whole")


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--bs 2 --steps 2") == 0

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run("--bs 2 --steps 4 --resume") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert "step_00000002.pt" in error
    assert checkpoints(tmp_path / "a") == ["step_00000002.pt"]


def test_events_that_cannot_be_written_end_no_training(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    original, written = event_file_writer.RecordWriter.write, []

    def write(self: object, data: bytes) -> None:
        written.append(data)
        if len(written) > 40:  # in the second step
            raise OSError(28, "No space left on device")
        original(self, data)

    monkeypatch.setattr(event_file_writer.RecordWriter, "write", write)
    assert run("--bs 2 --steps 4 --save_minutes 0 --max_save_num 9") == 0
    assert len(checkpoints(tmp_path / "a")) == 4
    out, err = capfd.readouterr()
    assert out.count("events cannot be written (No space left on device); training goes on") == 1
    assert err == ""
    assert len(losses(tmp_path / "a")) < 4


def test_a_list_of_skipped_files_that_cannot_be_written_ends_no_training(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = OneBad.make(6, 16, (48, 64))
    monkeypatch.setattr(train, "open_source", lambda *_: source)
    real = train.load

    def load(*arguments: object) -> object:
        (file,) = (tmp_path / "a").rglob("skipped.jsonl")
        if file.is_file():
            file.unlink()
            file.mkdir()
        return real(*arguments)

    monkeypatch.setattr(train, "load", load)
    assert run("--bs 6 --steps 2") == 0
    out = capsys.readouterr().out
    assert out.count("skipped.jsonl: cannot be written (Is a directory)") == 1
    assert out.count(f"skipped: {source.paths[2]}: it is broken") == 1


@pytest.mark.parametrize("flag", ["--model_save_dir", "--log_dir"])
def test_where_nothing_can_be_written_is_told_before_training(
    flag: str, run: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(f"--steps 1 {flag} {tmp_path / 'file' / 'folder'}") == 2
    out, err = capsys.readouterr()
    assert "step 1/" not in out
    assert f"{tmp_path / 'file'}" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("full", ["saved", "logs"])
def test_a_disk_without_room_is_told_before_training(
    full: str,
    run: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def allocate(descriptor: int, start: int, size: int) -> None:
        asked.append(size)
        if f"/{full}/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    assert run("--steps 1") == 2
    out, err = capsys.readouterr()
    assert "step 1/" not in out
    assert f"No space left on device for {asked[-1]} bytes: '{tmp_path / 'a' / full}" in err
    assert err.count("\n") == 1
    monkeypatch.undo()
    if full == "saved":  # weights and their momentum
        assert asked == [2 * sum(weight.nbytes for weight in small_network().parameters())]


def small_network() -> torch.nn.Module:
    args = parse(lambda _: None, f"--videos v {SMALL}".split())
    return statistics_net("c3d", args.width, args.head, args.motion_flag, args.app_flag, 8)


def test_weights_that_are_not_finite_are_not_saved(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = train.train_step

    def step(state: train.Run, *arguments: object) -> object:
        result = real(state, *arguments)
        if state.step == 1:
            next(state.net.parameters()).data[0] = torch.inf
        return result

    monkeypatch.setattr(train, "train_step", step)
    assert run("--steps 3 --bs 2 --save_minutes 0") == 1
    error = capsys.readouterr().err
    assert "net.backbone.conv1.0.weight has numbers that are not finite; resume with" in error
    assert error.count("\n") == 1
    assert checkpoints(tmp_path / "a") == ["step_00000001.pt"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--videos {empty} --width 1e9", "a c3d of width 1e+09 does not fit in memory"),
        ("--videos /no/such/folder", "/no/such/folder: no such folder"),
        ("--videos {empty}", "{empty}: no video files in it"),
        ("--rgb_prefix {empty} --flow_x_prefix {empty}", "both flow_x_prefix and flow_y_prefix"),
        ("--videos {empty} --rgb_prefix {empty}", "not both"),
        ("--videos {empty} --device cuda:99", "cuda:99"),
        ("--videos {empty} --clip_len 4", "c3d cannot take clips of 4 frames of 112x112"),
        ("--videos {empty} --precision fp16 --device cpu", "fp16 is for GPUs"),
        ("--videos {empty} --precision tf32 --device cpu", "--precision tf32 is for GPUs; use"),
    ],
)
def test_what_the_user_must_change_is_one_line_and_exit_code_2(
    flags: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(flags.format(empty=tmp_path).split()) == 2
    error = capsys.readouterr().err
    assert words.format(empty=tmp_path) in error
    assert error.count("\n") == 1
