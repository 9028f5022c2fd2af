"""Which clips exist: videos, frame folders, reels, synthetic textures; their lists and index."""

from dali_pipes.sources.frames import FrameFolders
from dali_pipes.sources.open import open_prepared, open_source, open_video
from dali_pipes.sources.reels import Reels
from dali_pipes.sources.source import Source, split
from dali_pipes.sources.synthetic import Synthetic
from dali_pipes.sources.videos import VideoFiles

__all__ = [
    "FrameFolders",
    "Reels",
    "Source",
    "Synthetic",
    "VideoFiles",
    "open_prepared",
    "open_source",
    "open_video",
    "split",
]
