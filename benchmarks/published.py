"""The authors' code (a clone of laura-wang/video_repres_sts), driven unchanged beside ours.

Its data set and label functions are imported from the clone. torchvision, of which they use
`Compose` only, gets a stand-in where it is missing; they need SciPy and OpenCV.
"""

import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from benchmarks import timing
from benchmarks.inputs import layout_arguments
from benchmarks.rivals import ROUNDS, Array, Row, compare, ratio, stream, threads
from dali_pipes import ClipLoader
from dali_pipes.decoding.jpeg import image_name
from kernels.flow import code as flow_code
from kernels.labels import clip_labels

ADDRESS = "https://github.com/laura-wang/video_repres_sts"
FOLDERS = ("datasets", "utils", "sts")  # of the clone, which are its packages
CLIP_LEN, SIZE = 16, 112  # the only ones that its label functions know
BATCH = 4  # its train.py's default
CHECKED = 8  # clips whose labels must be ours before anything is timed
REPEATS = 10_000  # of its list: an epoch that ends would end its workers


def published(
    clone: Path, prepared: Path, videos: Path, reels: Path, seconds: float, workers: int = 2
) -> list[Row]:
    """Loaders and label functions, theirs and ours, in turns of `seconds` each.

    `prepared`: a clip of each of `videos` in the published layout; `reels`: the videos prepared
    whole. Our loaders compute the same labels (rule `reference`) from the same images and stored
    flow, or from the same frames of the reels or of the videos, or from anywhere in these, with
    flow made on the way; from reels also those of training (rule `corrected`). Exits where
    their labels are not ours for the samples that their data set gives, or where something is
    missing.
    """
    lines = _usable_lines(prepared)
    with tempfile.TemporaryDirectory() as folder:
        data_list = Path(folder, "train.list")
        data_list.write_text("".join(lines))
        dataset = _dataset(clone, prepared, data_list)
        frames, flow = _checked_samples(dataset, lines, workers)
        repeated = Path(folder, "repeated.list")
        repeated.write_text("".join(lines) * REPEATS)
        theirs = DataLoader(
            _dataset(clone, prepared, repeated), BATCH, shuffle=True, num_workers=workers
        )
        common: dict[str, Any] = {
            "rule": "reference", "batch_size": BATCH, "num_workers": workers, "device": "cpu",
        }  # fmt: skip
        images = layout_arguments(prepared)
        ours = {
            ("ClipLoader, stored flow", "JPEG folders"): ClipLoader(
                data_list=data_list, **images, **common
            ),
            ("ClipLoader, stored flow, the same frames", "reels"): ClipLoader(
                reels=reels, data_list=data_list, **common
            ),
            ("ClipLoader, stored flow, rule corrected, any frames", "reels"): ClipLoader(
                reels=reels, **common | {"rule": "corrected"}
            ),
            ("ClipLoader, flow on the fly, the same frames", "videos"): ClipLoader(
                videos, data_list=data_list, **common
            ),
            ("ClipLoader, flow on the fly, any frames", "videos"): ClipLoader(videos, **common),
        }
        rows = _in_turns(theirs, ours, seconds)
    return rows + _labels_in_turns(clone, frames, flow, seconds)


def label_call(clone: Path, frames: Array, flow: Array) -> Callable[[], Array]:
    """A call of their label functions on frames uint8 [N,T,S,S,3] and coded flow [N,T,S,S,2].

    It returns int64 [N,27]. They get the arrays in the form that their data set gives them.
    """
    motion = imported(clone, "sts.generate_motion_label")
    appearance = imported(clone, "sts.generate_app_label")
    flow_px = flow_code.decode(flow)
    samples = [
        {
            "rgb_clip": clip[..., ::-1].transpose(3, 0, 1, 2),  # BGR, channels first
            "u_flow": np.ascontiguousarray(flow_px[n, ..., 0]),
            "v_flow": np.ascontiguousarray(flow_px[n, ..., 1]),
        }
        for n, clip in enumerate(frames)
    ]

    def label() -> Array:
        for sample in samples:
            motion.motion_statistics((1, 1, 1, 1), sample)
            appearance.app_statistics((1, 1, 1, 1), sample)
        return np.array([[*s["motion_label"], *s["app_label"]] for s in samples])

    return label


def imported(clone: Path, name: str) -> ModuleType:
    """A module of the clone. Exits if it is not there or lacks what it needs."""
    file = clone / f"{name.replace('.', '/')}.py"
    if not file.is_file():
        sys.exit(f"{file}: no such file; --published wants a clone of {ADDRESS}")
    _stand_in_for_torchvision()
    for folder in FOLDERS:
        path = [str(clone / folder)]
        # The clone's folders have no __init__.py: an installed package of that name would win.
        if getattr(sys.modules.get(folder), "__path__", None) != path:
            for other in [n for n in sys.modules if n == folder or n.startswith(f"{folder}.")]:
                del sys.modules[other]
            sys.modules[folder] = package = ModuleType(folder)
            package.__path__ = path
    try:
        return import_module(name)
    except ImportError as error:
        sys.exit(f"{file}: cannot be imported: {error}; install what is missing")


def _stand_in_for_torchvision() -> None:
    try:
        import_module("torchvision.transforms")
    except (ImportError, RuntimeError):  # not there, or built for another torch
        package, transforms = ModuleType("torchvision"), ModuleType("torchvision.transforms")
        transforms.__dict__["Compose"] = _Compose
        package.__dict__["transforms"] = transforms
        sys.modules.update({"torchvision": package, "torchvision.transforms": transforms})


class _Compose:
    def __init__(self, steps: list[Callable[[Any], Any]]) -> None:
        self._steps = steps

    def __call__(self, sample: Any) -> Any:
        for step in self._steps:
            sample = step(sample)
        return sample


def _usable_lines(prepared: Path) -> list[str]:
    """The lines of the list whose clips are there whole: their code does not skip others."""
    data_list = prepared / "train.list"
    if not data_list.is_file():
        sys.exit(f"{data_list}: no such file; make it with `python -m dali_pipes.prepare frames`")
    lines = []
    for line in data_list.read_text().splitlines(keepends=True):
        name, start, _ = line.rsplit(maxsplit=2)
        last = image_name(int(start) + CLIP_LEN - 1)
        if " " not in name and (prepared / "flow/u" / Path(name).name / last).is_file():
            lines.append(line)
    if not lines:
        sys.exit(
            f"{data_list}: none of its clips has {CLIP_LEN} flow images in {prepared / 'flow/u'}; "
            f"make them with `python -m dali_pipes.prepare flow {prepared}`"
        )
    return lines


def _dataset(clone: Path, prepared: Path, data_list: Path) -> Any:
    """Their data set with the transforms of their train.py."""
    ucf101 = imported(clone, "datasets.ucf101_dataset").ucf101
    transforms = imported(clone, "utils.video_transforms")
    steps = [transforms.RandomCrop(SIZE), transforms.RandomHorizontalFlip(0.5)]
    compose = import_module("torchvision.transforms").Compose
    return ucf101(
        str(data_list),
        *map(str, layout_arguments(prepared).values()),
        transforms=compose([*steps, transforms.ToTensor()]),
    )


def _checked_samples(dataset: Any, lines: list[str], workers: int) -> tuple[Array, Array]:
    """Frames and coded flow of the first samples. Exits where their labels are not ours."""
    samples = list(islice(DataLoader(dataset, batch_size=1, num_workers=workers), CHECKED))
    names = [line.split()[0] for line in lines[: len(samples)]]
    bgr = np.concatenate([sample["rgb_clip"] for sample in samples])  # [N,3,T,S,S]
    frames = np.ascontiguousarray(bgr[:, ::-1].transpose(0, 2, 3, 4, 1))
    flow_px = np.concatenate([np.stack([s["u_flow"], s["v_flow"]], -1) for s in samples])
    labels = np.array([[*s["motion_label"][0], *s["app_label"][0]] for s in samples])
    flow = flow_code.encode(flow_px)
    compare("published code", labels, clip_labels(frames, flow, "reference"), names)
    return frames, flow


def _in_turns(
    theirs: "DataLoader[Any]", ours: dict[tuple[str, str], ClipLoader], seconds: float
) -> list[Row]:
    what = ("published DataLoader, stored flow", "JPEG folders")
    try:
        # Theirs first: its workers are forked, best before ours start threads.
        streams = {str(what): stream(theirs, BATCH)}
        streams |= {str(name): stream(loader, BATCH) for name, loader in ours.items()}
        times = timing.interleaved(streams, ROUNDS, seconds)
    finally:
        for loader in ours.values():
            loader.close()
    rival = times[str(what)]
    return [_row(what, rival)] + [
        _row(name, times[str(name)]) | ratio(rival, times[str(name)]) for name in ours
    ]


def _labels_in_turns(clone: Path, frames: Array, flow: Array, seconds: float) -> list[Row]:
    """The label functions alone, on one core."""
    label = label_call(clone, frames, flow)
    streams: dict[str, Callable[[], int]] = {
        "published labels, one core": lambda: len(label()),
        "clip_labels, one core": lambda: len(clip_labels(frames, flow, "reference")),
    }
    with threads(1):
        times = timing.interleaved(streams, ROUNDS, seconds, drained=1)
    rival, mine = (_row((name, "arrays"), timed) for name, timed in times.items())
    return [rival, mine | ratio(*times.values())]


def _row(what: tuple[str, str], timed: timing.Timing) -> Row:
    return {"section": "published", "loader": what[0], "input": what[1], **timed.per(1)}
