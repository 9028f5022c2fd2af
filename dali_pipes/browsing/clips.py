"""The clips that a page shows: which, and all that it says of each."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dali_pipes.batch import ClipBatch
from dali_pipes.browsing.files import File
from dali_pipes.browsing.film import film
from dali_pipes.browsing.network import Predict
from dali_pipes.browsing.places import SIDE
from dali_pipes.browsing.suspicion import Scene, Suspicion, suspicions, twins
from dali_pipes.drawing.panels import motion_boundaries, strongest
from dali_pipes.loader import ClipLoader
from dali_pipes.once import each_once
from kernels.labels.difficulty import position_margins
from kernels.labels.partitions import PATTERN_SLICES, partition
from kernels.labels.schema import INDEX, PATTERN_BLOCKS, Rule


@dataclass
class Clip:
    """One labelled clip."""

    video: int  # item of the source
    start: int  # its first frame
    labels: NDArray[np.int64]  # [27]
    predicted: NDArray[np.int64] | None  # [27], 0 where a label is not learned
    arrows: NDArray[np.int64]  # [2,3,2], where (x, y) of SIDE an orientation's arrow stands
    film: bytes
    scene: Scene
    suspicions: list[Suspicion] = field(default_factory=list)


def choose(files: Mapping[int, File], needs: int, clips: int) -> tuple[list[int], int]:
    """(items, clips of each) for about so many clips, evenly spread over files that can be used.

    `needs`: video frames that a clip needs. Clips overlap by half at most, on average: more of
    them would show the same again.
    """
    items = sorted(files)
    if len(items) >= clips:
        return [items[n] for n in np.linspace(0, len(items) - 1, clips).round().astype(int)], 1
    room = 2 * sum(file.frames for file in files.values()) // needs
    return items, max(1, min(clips, room) // max(1, len(items)))


def collect(loader: ClipLoader, predict: Predict | None) -> list[Clip]:
    """One epoch of a loader that samples evenly, each clip once; by video and start."""
    found = [clip for batch in each_once(loader) for clip in _clips(batch, loader, predict)]
    ordered = sorted(found, key=lambda clip: (clip.video, clip.start))
    near = twins([clip.scene for clip in ordered], [loader.paths[clip.video] for clip in ordered])
    for n, (other, far) in near.items():
        ordered[n].suspicions.append(Suspicion("twin", "as in", -far, other))
    return ordered


def _clips(batch: ClipBatch, loader: ClipLoader, predict: Predict | None) -> list[Clip]:
    predicted = None if predict is None else predict(batch.frames)
    margins = position_margins(batch.flow).cpu().numpy()
    frames, flow, labels, video, start = (
        tensor.cpu().numpy()
        for tensor in (batch.frames, batch.flow, batch.labels, batch.video, batch.start)
    )

    def clip(row: int) -> Clip:
        scene = Scene.of(frames[row])
        return Clip(
            int(video[row]),
            int(start[row]),
            labels[row],
            None if predicted is None else predicted[row],
            _arrows(flow[row], labels[row], loader.spec.rule),
            film(frames[row], flow[row]),
            scene,
            suspicions(scene, flow[row], margins[row]),
        )

    with ThreadPoolExecutor() as pool:  # to encode films takes longest, and no interpreter
        return list(pool.map(clip, range(len(batch))))


def _arrows(flow: NDArray[np.uint8], labels: NDArray[np.int64], rule: Rule) -> NDArray[np.int64]:
    size = flow.shape[1]
    cells = partition(size, rule)
    at = np.full((2, len(PATTERN_BLOCKS), 2), SIDE // 2)
    for row, component in enumerate("uv"):
        strength = motion_boundaries(flow, component)
        for column, blocks in enumerate(PATTERN_SLICES):
            value = int(labels[INDEX[f"{component}{column + 1}p"]])
            if value:  # `reference`, and nothing moves: no block is chosen
                mask = cells.mask(blocks.start + value - 1)
                at[row, column] = np.array(strongest(strength, mask)) * SIDE // size
    return at
