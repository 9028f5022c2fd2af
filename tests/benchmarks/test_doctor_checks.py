"""Every check of the doctor: on something that is broken in one way, and on something sound."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import train
from benchmarks.doctor import decoding, libraries, machine, results, software, videos
from benchmarks.doctor.checks import Facts, checks
from benchmarks.doctor.finding import Finding
from benchmarks.doctor.machine import GIB, Limits
from benchmarks.doctor.software import Nvidia, Torch
from benchmarks.inputs import run_command
from dali_pipes import ClipBatch
from dali_pipes.pipelines.running import LoaderStopped
from dali_pipes.prepare import reels
from model.training import precision

H200 = (("NVIDIA H200", (9, 0), 139 * GIB),)
CUDA12, CUDA13 = (Nvidia("550.1", (12, 4), ("NVIDIA A100",)), Nvidia("580.1", (13, 0), ("H200",)))
NO_GPU = Nvidia()
FOR_13, FOR_12 = Torch("2.13.0", "13.0", H200), Torch("2.13.0", "12.6", H200)
FOR_CPU = Torch("2.13.0+cpu", None)
FREE = Limits(4, None, 8 * GIB, None, 8 * GIB)
LIMITED = Limits(4, None, 8 * GIB, 2 * GIB, 8 * GIB)

Patch = pytest.MonkeyPatch
Try = Callable[[Patch, Path], Finding]


@cache
def right_batches() -> list[ClipBatch]:
    return results.batches("cpu", workers=0)


def loaded(change: Callable[[list[ClipBatch]], list[ClipBatch]]) -> Try:
    """The loader's check where workers give other batches."""

    def run(patch: Patch, _: Path) -> Finding:
        right = right_batches()
        patch.setattr(
            results, "batches", lambda device, workers: change(right) if workers else right
        )
        return results.loader(False)

    return run


def with_part(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Try:
    """One part of one batch is another."""

    def changed(batches: list[ClipBatch]) -> list[ClipBatch]:
        parts = dict(vars(batches[2])) | {name: change(getattr(batches[2], name))}
        return [*batches[:2], ClipBatch(**parts), *batches[3:]]

    return loaded(changed)


def stopped(_: list[ClipBatch]) -> list[ClipBatch]:
    raise LoaderStopped("decoding worker 7 ran out of shared memory")


def read_late(patch: Patch, _: Path) -> Finding:
    """A reader that shows frame n + 1 for n."""
    read = decoding.read_frames
    patch.setattr(decoding, "read_frames", lambda *given: np.roll(read(*given), -1, axis=0))
    return decoding.on_cpu(["mjpeg"])


def decoded_late(patch: Patch, _: Path) -> Finding:
    decode = decoding.by_dali
    patch.setattr(decoding, "by_dali", lambda *given: np.roll(decode(*given), -1, axis=0))
    return decoding.on_gpu(["vp8"], None, "cpu")  # DALI has it on the CPU


def planted_label(patch: Patch, _: Path) -> Finding:
    """A GPU's labels, of which one is another."""

    def almost(frames: Any, flow: Any, rule: Any) -> Any:
        labels = results.clip_labels(frames, flow, rule)
        labels[63, 26] += 1
        return labels

    patch.setattr(results, "on_gpu", almost)
    return results.labels(True)


def flow_off(patch: Patch, function: str, by: float) -> None:
    def off(frames: Any, settings: Any) -> Any:
        return cpu_flow(frames, settings) + np.float32(by)

    patch.setattr(results, function, off)


cpu_flow = results.cpu_flow


def cpu_flow_off(patch: Patch, _: Path) -> Finding:
    flow_off(patch, "cpu_flow", 0.05)
    return results.tvl1(False)


def other_picture(patch: Patch, _: Path) -> Finding:
    decode = cv2.imdecode
    patch.setattr(cv2, "imdecode", lambda *given: decode(*given)[:, ::-1])
    return libraries.nvjpeg("cpu", None)


def wrong_bf16(patch: Patch, _: Path) -> Finding:
    patch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    patch.setattr(precision, "_bf16_gradients_are_right", lambda: False)
    return results.precision(False)


def failing_training(patch: Patch, _: Path) -> Finding:
    patch.setattr(train, "main", lambda argv: 1)
    return results.training(False)


def no_cache(patch: Patch, folder: Path) -> Finding:
    (folder / "file").touch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    return machine.cache()


def full_disk(patch: Patch, _: Path) -> Finding:
    patch.setattr(machine, "LEAST_OUTPUT", 2**62)
    return machine.output()


def no_compiler(patch: Patch, folder: Path) -> Finding:
    patch.setenv("PATH", str(folder))
    return machine.compiler()


def slow_disk(patch: Patch, folder: Path) -> Finding:
    (folder / "a.mp4").write_bytes(bytes(1000))
    patch.setattr(videos, "SLOW", 1e18)
    return videos.disk(folder)


def read_only_folder(patch: Patch, folder: Path) -> Finding:
    (folder / "a.mp4").write_bytes(bytes(1000))
    patch.setenv("XDG_CACHE_HOME", str(folder / "a.mp4"))
    folder.chmod(0o555)
    try:
        return videos.index(folder)
    finally:
        folder.chmod(0o755)


def bad_videos(_: Patch, folder: Path) -> Finding:
    (folder / "a.mp4").write_bytes(bytes(1000))
    return videos.batch(folder, False)


def library(name: str) -> Try:
    def run(patch: Patch, _: Path) -> Finding:
        patch.setitem(libraries.OF_DRIVER, name, "something does not work")
        return libraries.of_driver(name)

    return run


def plain(function: Callable[..., Finding], *arguments: Any, **named: Any) -> Try:
    return lambda patch, folder: function(*arguments, **named)


def backwards(frames: Any) -> Any:
    return -cpu_flow(frames, results.NATIVE)


def half(frames: Any) -> Any:
    return cpu_flow(frames, results.NATIVE) / 2


BOTH = {"nvidia-dali-cuda120": "2.4.0", "nvidia-dali-cuda130": "2.4.0"}
DALI12, DALI13 = ({name: "2.4.0"} for name in BOTH)

# (check, state, words of what is found, how)
BROKEN: list[tuple[str, str, str, Try]] = [
    ("driver", "bad", "no answer", plain(software.driver, Nvidia(trouble="no answer"))),
    ("driver", "warning", "no driver", plain(software.driver, Nvidia(trouble="no driver"))),
    ("driver", "bad", "CUDA 11.8", plain(software.driver, Nvidia("520", (11, 8), ("A100",)))),
    ("python", "bad", "3.10.4", plain(software.python, "3.10.4")),
    ("packages", "bad", "not installed: torch", plain(software.packages, {})),
    (
        "packages", "warning", "av 1.0",
        lambda *_: software.packages(software.installed() | {"av": "1.0"}),
    ),
    ("torch", "bad", "for CPUs", plain(software.torch_fits, CUDA13, FOR_CPU)),
    ("torch", "bad", "driver runs CUDA 12.4", plain(software.torch_fits, CUDA12, FOR_13)),
    (
        "torch", "bad", "sees no GPU: unknown error",
        plain(software.torch_fits, CUDA13, Torch("2.13.0", "13.0", (), "unknown error")),
    ),
    ("DALI", "bad", "cannot live together", plain(software.dali_fits, NO_GPU, BOTH)),
    ("DALI", "bad", "none is installed", plain(software.dali_fits, NO_GPU, {})),
    ("DALI", "bad", "driver runs CUDA 12", plain(software.dali_fits, CUDA12, DALI13)),
    ("DALI", "warning", "not tested", plain(software.dali_fits, CUDA13, DALI12)),
    ("CuPy", "bad", "none is installed", plain(software.cupy_fits, CUDA13, {}, FOR_13)),
    (
        "CuPy", "bad", "beside a torch for CUDA 13.0",
        plain(software.cupy_fits, CUDA13, {"cupy-cuda12x": "14.2.0"}, FOR_13),
    ),
    (
        "GPU", "bad", "compute capability 7.5",
        plain(software.gpu, Torch("2", "12.6", (("Tesla T4", (7, 5), GIB),))),
    ),
    ("NVRTC", "bad", "cannot compile for compute capability 99.0", plain(software.nvrtc, (99, 0))),
    ("libnvcuvid", "warning", "cannot open", library("libnvcuvid-nowhere.so.1")),
    ("libnvidia-opticalflow", "warning", "cannot open", library("libnvidia-nowhere.so.1")),
    ("nvJPEG", "bad", "RuntimeError", plain(libraries.nvjpeg, "mixed", 99)),
    ("nvJPEG", "bad", "levels from", other_picture),
    ("cores", "warning", "time of 1.5", plain(machine.cores, Limits(8, 1.5, GIB, None, GIB))),
    ("threads", "warning", "idle", plain(machine.threads, FREE, 1)),
    ("threads", "warning", "wait", plain(machine.threads, Limits(8, 2.0, GIB, None, GIB), 8)),
    ("memory", "bad", "0.5 GiB", plain(machine.memory, Limits(8, None, GIB // 2, None, GIB))),
    ("memory", "warning", "(cgroup)", plain(machine.memory, LIMITED)),
    (
        "/dev/shm", "bad", "batches of 4",
        lambda _, folder: machine.shared_memory("cpu", folder, lambda *_: 2**62),
    ),
    (
        "/dev/shm", "warning", "batches of 30",
        lambda _, folder: machine.shared_memory("cpu", folder, lambda n, _: 2 ** (2 * n)),
    ),
    ("/dev/shm", "bad", "No such file", lambda _, at: machine.shared_memory("cpu", at / "none")),
    ("open files", "bad", "24 may be open", plain(machine.open_files, 2, 24)),
    ("open files", "warning", "64 workers", plain(machine.open_files, 64, 256)),
    ("cache folder", "warning", "cannot be written", no_cache),
    ("this folder", "warning", "GiB free", full_disk),
    ("g++", "warning", "not there", no_compiler),
    ("FFmpeg codecs", "bad", "mjpeg: frame 0 is frame 1", read_late),
    ("NVDEC codecs", "warning", "vp8: frame 0 is frame 1", decoded_late),
    ("NVDEC codecs", "warning", "Assert on", plain(decoding.on_gpu, ["h264"], None, "cpu")),
    ("labels", "bad", "1 of 64 clips", planted_label),
    ("TV-L1", "bad", "on the CPU", cpu_flow_off),
    ("hardware flow", "warning", "backwards", plain(results.hardware_flow, backwards)),
    ("hardware flow", "warning", "px from", plain(results.hardware_flow, half)),
    ("loader", "bad", "batch 1: other clips", loaded(lambda all_: [all_[0], *all_[:0:-1]])),
    ("loader", "bad", "batch 2: frames are", with_part("frames", lambda x: x.roll(1, 1))),
    ("loader", "bad", "batch 2: other flow", with_part("flow", lambda x: x.flip(-1))),
    ("loader", "bad", "batch 2: labels are not", with_part("labels", lambda x: x.flip(0))),
    ("loader", "bad", "ran out of shared memory", loaded(stopped)),
    ("precision", "warning", "gradients", wrong_bf16),
    ("training", "bad", "exit code 1", failing_training),
    ("videos: disk", "warning", "slow", slow_disk),
    ("videos: index", "warning", "cannot be written", read_only_folder),
    ("videos: batch", "bad", "nothing usable", bad_videos),
]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "words", "how"),
    [pytest.param(*rest, id=f"{name}: {rest[1]}") for name, *rest in BROKEN],
)
def test_a_check_fails_where_what_it_is_about_is_broken(
    state: str, words: str, how: Try, monkeypatch: Patch, tmp_path: Path
) -> None:
    found = how(monkeypatch, tmp_path)
    assert found.state == state, found
    assert words in found.found
    assert found.remedy
    assert "\n" not in found.found + found.remedy


def test_each_check_has_such_a_test() -> None:
    every = checks(Facts(CUDA13, FOR_13, {}, FREE), Path("videos"))
    assert {check.name for check in every} == {name for name, *_ in BROKEN}
    assert all(check.applies for check in every)
    for check in every:
        assert callable(getattr(sys.modules[f"benchmarks.doctor.{check.work.split(':')[0]}"],
                                check.work.split(":")[1]))  # fmt: skip


SOUND: dict[str, Try] = {
    "no driver": plain(software.driver, NO_GPU),
    "driver": plain(software.driver, CUDA13),
    "python": plain(software.python),
    "torch for CUDA 12": plain(software.torch_fits, CUDA12, FOR_12),
    "torch for CUDA 12 on a driver for 13": plain(software.torch_fits, CUDA13, FOR_12),
    "torch for CPUs": plain(software.torch_fits, NO_GPU, FOR_CPU),
    "torch for CUDA without a GPU": plain(software.torch_fits, NO_GPU, Torch("2.13.0", "13.0")),
    "DALI for CUDA 12": plain(software.dali_fits, CUDA12, DALI12),
    "DALI for CUDA 13": plain(software.dali_fits, CUDA13, DALI13),
    "DALI without a GPU": plain(software.dali_fits, NO_GPU, DALI12),
    "CuPy": plain(software.cupy_fits, CUDA13, {"cupy-cuda13x": "14.2.0"}, FOR_13),
    "GPU": plain(software.gpu, FOR_13),
    "NVRTC": plain(software.nvrtc, (9, 0)),
    "library": library("libc.so.6"),
    "JPEG": plain(libraries.nvjpeg, "cpu", None),
    "cores": plain(machine.cores, FREE),
    "threads": plain(machine.threads, Limits(8, 2.0, GIB, None, GIB), 2),
    "hyperthreads": plain(machine.threads, Limits(8, None, GIB, None, GIB), 4),
    "memory": plain(machine.memory, FREE),
    "shared memory": lambda _, folder: machine.shared_memory("cpu", folder, lambda *_: 1),
    "open files": plain(machine.open_files, 8, 1024),
    "codecs by DALI": plain(decoding.on_gpu, ["vp8", "vp9"], None, "cpu"),
    "hardware flow": plain(results.hardware_flow, partial(cpu_flow, settings=results.NATIVE)),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_check_passes_where_it_is_sound(name: str, monkeypatch: Patch, tmp_path: Path) -> None:
    found = SOUND[name](monkeypatch, tmp_path)
    assert (found.state, found.remedy) == ("ok", "")
    assert found.found


# ---- one by one -------------------------------------------------------------------------------

SMI = """#!/bin/sh
case "$1" in
--query*) printf 'NVIDIA H100, 580.159.04\\nNVIDIA H100, 580.159.04\\n' ;;
*) echo '| NVIDIA-SMI 580.159.04   Driver Version: 580.159.04   CUDA Version: 13.0 |' ;;
esac
"""
BROKEN_SMI = (
    "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n"
)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (SMI, Nvidia("580.159.04", (13, 0), ("NVIDIA H100", "NVIDIA H100"))),
        (BROKEN_SMI, Nvidia(trouble="nvidia-smi: Failed to initialize NVML: Driver/library "
                            "version mismatch")),
        ("#!/bin/sh\nexec sleep 5\n", Nvidia(trouble="nvidia-smi gives no answer for 0.5 s")),
        ("#!/bin/sh\n", Nvidia(trouble="nvidia-smi runs and lists no GPU with a CUDA version")),
    ],
    ids=["two GPUs", "broken", "hangs", "says nothing"],
)  # fmt: skip
def test_nvidia_smi_is_asked(
    script: str, expected: Nvidia, tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "nvidia-smi").write_text(script)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(software, "SMI_SECONDS", 0.5)
    assert software.nvidia() == expected


def test_a_card_without_a_driver_is_seen(tmp_path: Path) -> None:
    assert software._traces(tmp_path) == ""
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    assert "NVIDIA card (PCI 0000:01:00.0), but no driver" in software._traces(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert software._traces(tmp_path) == "there is /dev/nvidia0, but no nvidia-smi"


def test_cgroups_of_both_versions_limit_cores_and_memory(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "cgroup"
    assert machine.allowed_cores(root, own) is None
    inner = root / "pod" / "container"
    inner.mkdir(parents=True)
    own.write_text("0::/pod/container\n")
    (inner / "cpu.max").write_text("max 100000\n")
    (root / "pod" / "cpu.max").write_text("150000 100000\n")  # the narrower one counts
    (inner / "memory.max").write_text("max\n")
    (root / "pod" / "memory.max").write_text(f"{4 * GIB}\n")
    (root / "pod" / "memory.current").write_text(f"{3 * GIB}\n")
    (root / "pod" / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    assert machine.allowed_cores(root, own) == 1.5
    assert machine.allowed_memory(root, own) == 2 * GIB

    own.write_text("4:memory:/elsewhere\n1:cpu,cpuacct:/elsewhere\n")  # as in a container
    (root / "cpu,cpuacct").mkdir()
    (root / "cpu,cpuacct/cpu.cfs_quota_us").write_text("-1\n")
    (root / "cpu,cpuacct/cpu.cfs_period_us").write_text("100000\n")
    assert machine.allowed_cores(root, own) is None
    (root / "cpu,cpuacct/cpu.cfs_quota_us").write_text("300000\n")
    assert machine.allowed_cores(root, own) == 3
    assert machine.allowed_memory(root, own) is None


def test_an_encoder_that_is_missing_is_named(monkeypatch: Patch) -> None:
    missing = decoding.Encoding("libnothing", "mp4")
    monkeypatch.setitem(decoding.ENCODINGS, "h264", missing)
    found = decoding.on_cpu(["h264", "mjpeg"])
    assert found.state == "warning"
    assert "mjpeg: 50 of 50" in found.found
    assert "not tried: h264 (libnothing: UnknownCodecError" in found.found


def test_frames_that_are_blurred_or_grey_are_no_frames() -> None:
    true = decoding.moving()
    assert decoding.difference(true, true) == ""
    assert "levels off" in decoding.difference(true // 4 * 3, true)
    assert "is frame" in decoding.difference(np.full_like(true, 128), true)
    assert "gives" in decoding.difference(true[:-1], true)


def test_the_labels_of_the_trial_are_right_and_varied() -> None:
    """By plain torch, which shares nothing with the compiled loops."""
    from benchmarks.torch_labels import torch_labels

    frames, flow = results.clips()
    labels = results.clip_labels(frames, flow)
    some = torch.from_numpy(frames[:8]), torch.from_numpy(flow[:8, :15])
    np.testing.assert_array_equal(torch_labels(*some), labels[:8])
    assert len({tuple(row) for row in labels.tolist()}) == results.CLIPS


def test_other_labels_on_the_cpu_are_noticed(monkeypatch: Patch) -> None:
    real = results.clip_labels
    monkeypatch.setattr(results, "clip_labels", lambda *given: real(*given) % 8)
    found = results.labels(False)
    assert (found.state, "CPU computes other labels" in found.found) == ("bad", True)


@pytest.mark.parametrize(("off", "state"), [(0.0, "ok"), (0.02, "bad")])
def test_flow_of_a_gpu_is_compared(off: float, state: str, monkeypatch: Patch) -> None:
    flow_off(monkeypatch, "gpu_flow", off)
    assert results.tvl1(True).state == state


def test_rounding_of_a_gpu_is_no_other_frame() -> None:
    true = right_batches()[0]
    parts = dict(vars(true))
    near = ClipBatch(**parts | {"frames": true.frames ^ 1})
    near = ClipBatch(**vars(near) | {"labels": results.clip_labels(near.frames, near.flow)})
    assert results.other(near, true, exactly=False) == ""
    assert "levels off" in results.other(near, true, exactly=True)


def test_reels_of_any_size_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    decoding.write_video(tmp_path / "videos/a.mkv", decoding.moving()[:20], "ffv1")
    made = ["--out", str(tmp_path / "reels"), "--flow", "tvl1-fast", "--resize", "120x160"]
    assert run_command(reels, [str(tmp_path / "videos"), *made]) == 0
    folder = tmp_path / "reels"
    assert videos.refusal(folder) == ""
    looked_at = (videos.disk(folder), videos.index(folder), videos.batch(folder, False))
    assert [found.state for found in looked_at] == ["ok"] * 3, looked_at


def test_the_doctor_starts_where_nothing_is_installed() -> None:
    """Or it could not say what is missing."""
    heavy = {"torch", "numpy", "cv2", "av", "numba", "nvidia", "cupy", "packaging"}
    code = f"import sys, benchmarks.doctor.__main__; assert not {heavy!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
