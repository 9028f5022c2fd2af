"""What the files of a source are."""

from dataclasses import dataclass

from dali_pipes.decoding.opening import BadVideo
from dali_pipes.decoding.video import frame_rate
from dali_pipes.sources import Reels, Source, VideoFiles
from dali_pipes.sources.index import Index
from dali_pipes.sources.survey import in_threads, survey


@dataclass(frozen=True)
class File:
    """A video that can be opened."""

    frames: int
    size: tuple[int, int]  # (height, width) px
    codec: str
    fps: float  # 0: it does not say


def look_at(source: Source) -> tuple[dict[int, File], dict[int, BadVideo]]:
    """Open every file of a source: what they are, and why others are no use, by item.

    What is found out goes into the source's index, too: a loader does not look again.
    """
    from tqdm import tqdm

    index = Index(source.index_path)
    bad = survey(source, index).bad
    known = {row.path: row.info for row in index.rows()}
    index.close()
    items = {source.paths[item]: item for item in range(len(source)) if item not in bad}

    def look(path: str) -> File:
        info = known.get(path) or source.probe(items[path])
        return File(info.frames, (info.height, info.width), info.codec, _fps(source, items[path]))

    found = dict(
        tqdm(in_threads(look, items), "opening files", len(items), unit="file", leave=False,
             disable=None)
    )  # fmt: skip
    files: dict[int, File] = {}
    for item, path in enumerate(source.paths):
        if isinstance(one := found.get(path), File):
            files[item] = one
        elif isinstance(one, BadVideo):
            bad[item] = one
    return files, bad


def _fps(source: Source, item: int) -> float:
    if isinstance(source, Reels):
        return float(source.fps[item])
    return frame_rate(source.paths[item]) if isinstance(source, VideoFiles) else 0.0
