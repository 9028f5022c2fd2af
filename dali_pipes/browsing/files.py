"""What the files of a source are."""

from dataclasses import dataclass

from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.video import frame_rate
from dali_pipes.sources import Reels, Source, VideoFiles
from dali_pipes.sources.survey import in_threads


@dataclass(frozen=True)
class File:
    """A video that can be opened."""

    frames: int
    size: tuple[int, int]  # (height, width) px
    codec: str
    fps: float  # 0: it does not say


def look_at(source: Source) -> tuple[dict[int, File], dict[int, BadVideo]]:
    """Open every item of a source: what they are, and why others are no use, by item."""
    from tqdm import tqdm

    def look(item: int) -> File:
        info = source.probe(item)
        return File(info.frames, (info.height, info.width), info.codec, _fps(source, item))

    files: dict[int, File] = {}
    bad: dict[int, BadVideo] = {}
    found = in_threads(look, range(len(source)))
    for item, one in tqdm(
        found, "opening files", len(source), unit="file", leave=False, disable=None
    ):
        if isinstance(one, BadVideo):
            bad[item] = one
        else:
            files[item] = one
    return files, bad


def _fps(source: Source, item: int) -> float:
    if isinstance(source, Reels):
        return float(source.fps[item])
    return frame_rate(source.paths[item]) if isinstance(source, VideoFiles) else 0.0
