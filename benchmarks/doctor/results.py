"""What is computed here is what it should be: labels, flow, batches, gradients, a run."""

import sys
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import flow as flows
from benchmarks.doctor.finding import Finding, bad, first_line, ok, warning
from dali_pipes import ClipBatch, ClipLoader
from dali_pipes.prepare.samples import write_sample
from dali_pipes.sources import Synthetic
from kernels.flow.tvl1 import FAST, NATIVE, Tvl1
from kernels.labels import clip_labels
from kernels.labels.schema import RULES, Rule
from model.training.precision import choose

Array = NDArray[Any]

CLIPS = 64
# Labels are integers, or IEEE operations in a given order, so the right ones are the same
# everywhere: digests of those of `clips()`.
DIGESTS: dict[Rule, str] = {"corrected": "d53475b4373a2e86", "reference": "cef42d9851646ae7"}
COMPILED_ANEW = "rm -r kernels/*/__pycache__ (compiled loops), then make venv; else report it"
ON_CPU = "train with --device cpu, and report it with --json"
SAME_FLOW = 0.01  # px, on average: rounding alone
SAME_PIXELS = 4.0  # levels, on average: a GPU resizes and rounds otherwise
BATCHES = 6


# ---- labels -----------------------------------------------------------------------------------


def clips() -> tuple[Array, Array]:
    """frames uint8 [64,16,112,112,3], flow uint8 [64,16,112,112,2]: blocks, and noise over them.

    Of integers alone, and of no random generator, so that they are the same everywhere.
    """
    blocks = _scattered((CLIPS, 16, 28, 28, 5)).repeat(4, axis=2).repeat(4, axis=3)
    darker = _scattered((CLIPS, 1, 1, 1, 5)) % 3  # by a power of two, each clip and channel
    fine = _scattered((16, 112, 112, 5)) >> 4
    values = (blocks >> darker) ^ fine
    return np.ascontiguousarray(values[..., :3]), np.ascontiguousarray(values[..., 3:])


def _scattered(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Numbers 0 .. n-1, hashed."""
    x = np.arange(np.prod(shape), dtype=np.uint32)
    for factor, bits in ((0x9E3779B1, 15), (0x85EBCA77, 13), (0xC2B2AE3D, 16)):
        x = x * np.uint32(factor)
        x ^= x >> np.uint32(bits)
    return (x >> np.uint32(24)).astype(np.uint8).reshape(shape)


def labels(gpu: bool) -> Finding:
    """The compiled loops against digests, and a GPU against them, bit for bit, under both rules."""
    frames, flow = clips()
    for rule in RULES:
        expected = clip_labels(frames, flow, rule)
        if digest(expected) != DIGESTS[rule]:
            return bad(f"the CPU computes other labels (rule {rule})", COMPILED_ANEW)
        if gpu and (wrong := int((on_gpu(frames, flow, rule) != expected).any(axis=1).sum())):
            return bad(f"{wrong} of {CLIPS} clips have other labels on the GPU ({rule})", ON_CPU)
    whose = "the GPU gives the CPU's" if gpu else "the known ones"
    return ok(f"{CLIPS} clips, both rules: {whose}, bit for bit")


def on_gpu(frames: Array, flow: Array, rule: Rule) -> Array:
    tensors = torch.from_numpy(frames).cuda(), torch.from_numpy(flow).cuda()
    return clip_labels(*tensors, rule).cpu().numpy()


def digest(found: Array) -> str:
    return blake2b(found.astype("<i8").tobytes(), digest_size=8).hexdigest()


# ---- flow -------------------------------------------------------------------------------------


def tvl1(gpu: bool) -> Finding:
    """On the CPU against OpenCV's and a known motion, and on a GPU against the CPU's."""
    frames = flows.moving_texture()
    native, fast = cpu_flow(frames, NATIVE), cpu_flow(frames, FAST)
    from_known = max(off_known_motion(native), off_known_motion(fast))
    from_opencv = float(np.abs(native - flows.opencv_tvl1(frames)).mean())
    said = f"{from_known:.2f} px from a known motion, {from_opencv:.4f} from OpenCV's"
    if not (from_known < 0.5 and from_opencv < SAME_FLOW):
        return bad(f"on the CPU {said}", COMPILED_ANEW)
    if gpu:
        pairs = ((gpu_flow(frames, NATIVE), native), (gpu_flow(frames, FAST), fast))
        off = max(float(np.abs(found - true).mean()) for found, true in pairs)
        said = f"on the GPU {off:.4f} px from the CPU's; that {said}"
        if not off < SAME_FLOW:
            return bad(said, ON_CPU)
    return ok(said)


def cpu_flow(frames: Array, settings: Tvl1) -> Array:
    from kernels.flow.cpu import tvl1_flow

    return tvl1_flow(frames, settings)


def gpu_flow(frames: Array, settings: Tvl1) -> Array:
    from kernels.flow.cuda import tvl1_flow

    found = tvl1_flow(torch.from_numpy(frames)[None].cuda(), settings)[0]
    return np.asarray(found.cpu().numpy())


def off_known_motion(found: Array, motion: tuple[int, int] = (3, -2)) -> float:
    """px, on average, without the border; flow [T-1,H,W,2] of `moving_texture`."""
    border = found.shape[1] // 8
    inner = found[:, border:-border, border:-border]
    return float(np.linalg.norm(inner - motion, axis=-1).mean())


def hardware_flow(compute: Callable[[Array], Array] | None = None) -> Finding:
    """NVIDIA's flow unit through DALI: its sign on a known motion."""
    remedy = "--flow tvl1, the default, does not need it; "
    try:
        found = (compute or flows.NvidiaFlow(1))(flows.moving_texture())
    except RuntimeError as error:
        return warning(first_line(error), f"{remedy}for it: libnvidia-opticalflow (above)")
    off = off_known_motion(found)
    if off < 0.5:
        return ok(f"{off:.2f} px from a known motion")
    if off_known_motion(-found) < 0.5:
        return warning("points backwards: u and v have the other sign", f"{remedy}report it")
    return warning(f"{off:.2f} px from a known motion", f"{remedy}report it")


# ---- batches ----------------------------------------------------------------------------------


def loader(gpu: bool) -> Finding:
    """Batches of the loader's own processes, taken faster than they are done.

    On a GPU (DALI -> CuPy -> torch) all wait behind other work on the stream: what is read too
    early, or written over too early, has other labels than its frames and flow have in the end.
    """
    remedy = ON_CPU if gpu else "--num_workers 0 does without processes; report it with --json"
    try:
        got, wanted = batches("cuda" if gpu else "cpu", workers=2), batches("cpu", workers=0)
    except (RuntimeError, ValueError) as error:
        return bad(first_line(error), remedy)
    for number, (batch, true) in enumerate(zip(got, wanted, strict=True)):
        if why := other(batch, true, exactly=not gpu):
            return bad(f"batch {number}: {why}", remedy)
    how = "DALI, CuPy and torch in stream order" if gpu else "workers' are those of one process"
    return ok(f"{len(got)} batches: {how}")


def batches(device: str, workers: int) -> list[ClipBatch]:
    """The first few, on the CPU."""
    one = ClipLoader(Synthetic.make(8), batch_size=2, device=device, num_workers=workers)
    try:
        found = [one.next_batch()]  # compiles
        while len(found) < BATCHES:
            if device == "cuda":
                torch.cuda._sleep(200_000_000)  # cycles, a tenth of a second: labels wait for it
            found.append(one.next_batch())
        return [ClipBatch(*(part.cpu() for part in vars(batch).values())) for batch in found]
    finally:
        one.close()


def other(batch: ClipBatch, true: ClipBatch, exactly: bool) -> str:
    """In what the batch is not right; "" if it is. `true` has the same clips."""
    for name in ("video", "start", "crop", "flip"):
        if not torch.equal(getattr(batch, name), getattr(true, name)):
            return f"other clips ({name})"
    off = float((batch.frames.float() - true.frames.float()).abs().mean())
    if off > (0 if exactly else SAME_PIXELS):
        return f"frames are {off:.1f} levels off"
    if exactly and not torch.equal(batch.flow, true.flow):
        return "other flow"
    if not torch.equal(batch.labels, clip_labels(batch.frames, batch.flow)):
        return "labels are not those of its frames and flow"
    return ""


# ---- training ---------------------------------------------------------------------------------


def precision(gpu: bool) -> Finding:
    """What --precision auto takes, after trying gradients in bf16 where they may be wrong."""
    found = choose("auto", torch.device("cuda" if gpu else "cpu"))
    said = f"{found.name}: {found.reason}"
    if "wrong" in found.reason:
        return warning(said, "none needed: float32 is taken, which is right and slower")
    return ok(said)


def training(gpu: bool) -> Finding:
    """Two steps of `train.py` on rendered videos, with a checkpoint and events."""
    import train

    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        for motion, suffix in (("up", "mp4"), ("left", "avi")):
            (videos / motion).mkdir(parents=True)
            write_sample(videos / motion / f"0.{suffix}", motion, 0, "train", 0, height=144)
        places = ["--model_save_dir", f"{folder}/models", "--log_dir", f"{folder}/logs"]
        network = ["--width", "0.05", "--bs", "2", "--steps", "2"]
        device = "cuda" if gpu else "cpu"
        status = train.main(["--videos", str(videos), "--device", device, *network, *places])
        saved = list(Path(folder).glob("models/*/*.pt"))
    if status or not saved:
        why = f"train.py ends with exit code {status}" if status else "no checkpoint was written"
        return bad(
            f"{why}; {last_words()}",
            "make samples; `python train.py --videos samples --steps 2` says more",
        )
    return ok("two steps and a checkpoint")


def last_words() -> str:
    """The last line on the standard error, where that is a file."""
    sys.stderr.flush()
    try:
        lines = Path("/proc/self/fd/2").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"
