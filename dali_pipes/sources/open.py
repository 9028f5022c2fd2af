"""From what a user gives to a source: videos, reels, a list, or folders of frames."""

import os
from functools import lru_cache
from pathlib import Path

from dali_pipes.sources.frames import FrameFolders
from dali_pipes.sources.reels import MANIFEST, Manifest, Reels, are_reels
from dali_pipes.sources.source import Source
from dali_pipes.sources.suffixes import is_video_name
from dali_pipes.sources.videos import VideoFiles
from dali_pipes.storage import RemoteFiles, is_address
from dali_pipes.storage.address import parents


def open_source(
    videos: Path | str | Source | None = None,
    data_list: Path | str | None = None,
    rgb_prefix: Path | str | None = None,
    flow_x_prefix: Path | str | None = None,
    flow_y_prefix: Path | str | None = None,
    reels: Path | str | None = None,
    cache: Path | None = None,
) -> Source:
    """A source from what a user gives: a folder of videos or of reels, a list, or frame folders.

    cache: where reels of an address keep their index on this machine; None: the user's cache.
    Raises ValueError that says what is missing.
    """
    if reels is None and isinstance(videos, str | Path) and are_reels(videos):
        videos, reels = None, videos
    if reels is not None:
        if not (videos is None and rgb_prefix is flow_x_prefix is flow_y_prefix is None):
            raise ValueError("give reels alone, or with data_list: they hold frames and flow")
        if data_list is None:
            return Reels.found(reels, cache)
        return Reels.listed(data_list, reels, cache)
    if rgb_prefix is not None:
        if videos is not None:
            raise ValueError("give videos or rgb_prefix, not both")
        if data_list is None:
            return FrameFolders.found(rgb_prefix, flow_x_prefix, flow_y_prefix)
        return FrameFolders.listed(data_list, rgb_prefix, flow_x_prefix, flow_y_prefix)
    if flow_x_prefix is not None or flow_y_prefix is not None:
        raise ValueError("flow_x_prefix and flow_y_prefix need rgb_prefix, the folder of frames")
    if videos is None and data_list is None:
        raise ValueError(
            "give videos (a folder or a list), reels (a folder or an address) or rgb_prefix (a "
            "folder of frames)"
        )
    if videos is not None and not isinstance(videos, str | Path):
        return videos
    if videos is None or (data_list is None and Path(videos).is_file()):
        data_list, videos = data_list or videos, None
        assert data_list is not None
        if is_video_name(str(data_list)):
            raise ValueError(f"{data_list}: is a video; give its folder, or a list of videos")
    if data_list is None:
        assert videos is not None
        return VideoFiles.found(videos)
    return VideoFiles.listed(data_list, videos)


def open_prepared(folder: Path | str, data_list: Path | str | None = None) -> Source:
    """Reels, or rgb/ and flow/, as `dali_pipes.prepare` makes them; or videos at any depth.

    Raises ValueError that says what is missing.
    """
    rgb, flow = Path(folder, "rgb"), Path(folder, "flow")
    if not rgb.is_dir():
        return open_source(folder, data_list)
    sides = (flow / "u", flow / "v") if flow.is_dir() else (None, None)
    return open_source(None, data_list, rgb, *sides)


def open_video(path: Path | str) -> Source:
    """A source of one item: a video file, or REELS/class/video, as paths of reels are written.

    Raises ValueError if the reels have no such video.
    """
    if is_address(path):
        root, name = _split_address(str(path))
    else:
        folder = next((one for one in Path(path).parents if are_reels(one)), None)
        if folder is None:
            return VideoFiles.one(path)
        root, name = os.path.abspath(folder), os.path.relpath(path, folder)
    reels = _reels(root)
    try:
        return reels.subset([reels.paths.index(os.path.join(reels.folder, name))])
    except ValueError:
        raise ValueError(f"{path}: the reels in {root} have no such video") from None


def _split_address(path: str) -> tuple[str, str]:
    """The address of reels and the name of a video in them. Raises ValueError."""
    for root in parents(path):
        try:
            Manifest.read(RemoteFiles(root, proof=MANIFEST))
        except ValueError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        else:
            return root, path.removeprefix(f"{root}/")
    raise ValueError(f"{path}: lies in no reels; a video of them is ADDRESS/class/video")


@lru_cache(maxsize=1)
def _reels(root: str) -> Reels:
    return Reels.found(root)
