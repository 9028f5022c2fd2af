"""Training from real files on each device: it starts, learns, resumes, and takes no more memory.

On a CPU the same code runs as on a GPU, where it decodes by NVDEC and NVJPEG and computes TV-L1.
"""

import math
import os
from pathlib import Path
from statistics import median

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from dali_pipes.prepare.__main__ import main as prepare
from dali_pipes.prepare.encode import write_video
from tests.faults.damage import moving
from tests.faults.test_long_runs import MIB, resident

CODECS = {"a.mp4": "libx264", "b.mkv": "libx265", "c.webm": "libvpx-vp9", "d.avi": "mjpeg"}
SMALL = "--width 0.1 --clip_len 8 --size 32 --resize 36x48 --bs 2 --num_workers 1"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Flags that name videos, and the same as frames with stored flow."""
    folder = tmp_path_factory.mktemp("inputs")
    videos, out = folder / "videos", folder / "out"
    videos.mkdir()
    for seed, (name, codec) in enumerate(CODECS.items()):
        pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        write_video(videos / name, moving((160, 208), 24, seed), codec, pix_fmt=pixels)
    assert prepare(["frames", str(videos), "--out", str(out)]) == 0
    assert prepare(["flow", str(out)]) == 0
    flow = ["--flow_x_prefix", str(out / "flow/u"), "--flow_y_prefix", str(out / "flow/v")]
    return {
        "videos": ["--videos", str(videos)],
        "frame folders": ["--rgb_prefix", str(out / "rgb"), *flow],
    }


def command(flags: list[str], out: Path, device: str, steps: int) -> list[str]:
    places = ["--log_dir", str(out / "logs"), "--model_save_dir", str(out / "saved")]
    return [*flags, *SMALL.split(), *places, "--device", device, "--steps", str(steps)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("source", ["videos", "frame folders"])
def test_ten_steps_and_some_more_after_resuming(
    inputs: dict[str, list[str]],
    source: str,
    device: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [*inputs[source], "--clips_per_video", "5"]
    assert train.main(command(flags, tmp_path, device, 10)) == 0
    assert train.main([*command(flags, tmp_path, device, 13), "--resume"]) == 0
    assert capsys.readouterr().out.count(f"training 1 process(es) on {device}") == 2

    (folder,) = (tmp_path / "logs").iterdir()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    losses = {event.step: event.value for event in events.Scalars("mse_loss")}
    assert list(losses) == list(range(1, 14))
    assert all(math.isfinite(loss) for loss in losses.values())
    assert (folder / "skipped.jsonl").read_text() == ""
    then, now = (
        torch.load(next(tmp_path.rglob(f"step_{step:08d}.pt")), weights_only=True)
        for step in (10, 13)
    )
    assert (then["loader"]["consumed"], now["loader"]["consumed"]) == (20, 26)
    for saved in (then, now):
        assert all(
            weight.isfinite().all()
            for weight in saved["net"].values()
            if isinstance(weight, torch.Tensor)
        )
    assert any(
        not torch.equal(weight, now["net"][name])
        for name, weight in then["net"].items()
        if isinstance(weight, torch.Tensor)
    )


WARM_UP, STEPS, WINDOW = 60, 200, 20


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("source", ["videos", "frame folders"])
def test_memory_is_flat_while_training(
    inputs: dict[str, list[str]],
    source: str,
    device: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After every step: what this process and its workers hold, and what the whole GPU does."""
    real, host, gpu = train.train_step, [], []

    def step(*arguments: object) -> object:
        result = real(*arguments)
        own = os.getpid()
        workers = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        host.append(sum(resident(int(pid)) for pid in [own, *workers]))
        if device == "cuda":
            free, total = torch.cuda.mem_get_info()
            gpu.append(total - free)
        return result

    monkeypatch.setattr(train, "train_step", step)
    flags = [*inputs[source], "--clips_per_video", "1000"]  # no epoch ends on the way
    assert train.main(command(flags, tmp_path, device, STEPS)) == 0
    assert len(host) == STEPS
    for name, held in (("host", host), ("GPU", gpu)):
        if held:
            before, after = median(held[WARM_UP : WARM_UP + WINDOW]), median(held[-WINDOW:])
            print(f"{source}, {name}: {before / MIB:.0f} MiB, then {after / MIB:.0f} MiB")
            assert after - before < 64 * MIB, name
    assert len(gpu) == (STEPS if device == "cuda" else 0)
