"""Which clips exist: video files, frame folders or synthetic textures; their lists and index."""

from dali_pipes.sources.source import (
    FrameFolders,
    Source,
    Synthetic,
    VideoFiles,
    open_source,
    split,
)

__all__ = ["FrameFolders", "Source", "Synthetic", "VideoFiles", "open_source", "split"]
