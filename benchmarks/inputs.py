"""What the report measures on: videos, the same as JPEG folders and as reels, some clips."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dali_pipes import ClipBatch, ClipLoader
from dali_pipes.prepare import flow, frames, reels
from dali_pipes.prepare.samples import write_samples
from dali_pipes.sources import FrameFolders, VideoFiles

SAMPLES = Path("samples")  # where `make samples` puts them
CLIP_FRAMES = 17  # a clip and the frame that its last flow field needs
MOST_VIDEOS = 64  # a larger folder is measured on so many of its videos


@dataclass(frozen=True)
class Clips:
    """A batch of the loader, and where each of its clips lies."""

    batch: ClipBatch
    paths: list[str]  # [N]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def frame_numbers(self) -> list[range]:
        """[N], in the video, from 0."""
        clip_len = self.batch.frames.shape[1]
        return [range(start, start + clip_len) for start in self.batch.start.tolist()]


def sample_videos() -> Path:
    """The sample videos, rendered now if they are not there yet."""
    if not SAMPLES.exists():
        print(f"rendering sample videos into {SAMPLES}", flush=True)
        write_samples(SAMPLES, videos_per_class=7, split="train", seed=0)
    return SAMPLES


def few_videos(videos: Path, folder: Path) -> Path:
    """`videos`, or, where they are many, links in `folder` to some, spread over the whole."""
    paths = VideoFiles.found(videos).paths
    if len(paths) <= MOST_VIDEOS:
        return videos
    chosen = [paths[n * len(paths) // MOST_VIDEOS] for n in range(MOST_VIDEOS)]
    links = folder / f"videos-{_name(chosen)}"
    for path in chosen:
        link = links / Path(path).relative_to(videos)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path(path).resolve())
    print(f"measuring on {MOST_VIDEOS} of {len(paths)} videos", flush=True)
    return links


def _name(paths: Sequence[str]) -> str:
    """A short name for this set of files."""
    return blake2b("\n".join(sorted(paths)).encode(), digest_size=6).hexdigest()


def in_published_layout(videos: Path, folder: Path) -> Path:
    """A clip of each video as JPEG frames and TV-L1 flow, below `folder`; made once.

    Raises BadInput and ValueError as the commands `prepare frames` and `prepare flow` do.
    """
    out = folder / f"layout-{_name(VideoFiles.found(videos).paths)}"
    limit = ["--clip-frames", str(CLIP_FRAMES)]
    run_command(frames, [str(videos), "--out", str(out), *limit])
    run_command(flow, [str(out), *limit])
    return out


def as_reels(videos: Path, folder: Path) -> Path:
    """All frames of each video and flow `tvl1-fast` as reels, below `folder`; made once.

    Which flow it is does not matter to a loader's speed. Whole videos, so that a loader draws the
    same clips from them as from the videos. Raises BadInput and ValueError as the command
    `prepare reels` does.
    """
    out = folder / f"reels-{_name(VideoFiles.found(videos).paths)}"
    run_command(reels, [str(videos), "--out", str(out), "--flow", "tvl1-fast"])
    return out


def run_command(command: Any, arguments: list[str]) -> int:
    """Run a command of `dali_pipes.prepare`, given as its module; the exit status."""
    parser = ArgumentParser()
    command.add_arguments(parser)
    status: int = command.main(parser.parse_args(arguments))
    return status


def layout_arguments(prepared: Path) -> dict[str, Any]:
    """The folders of a published layout by the names that ClipLoader and train.py give them."""
    return {
        "rgb_prefix": prepared / "rgb",
        "flow_x_prefix": prepared / "flow/u",
        "flow_y_prefix": prepared / "flow/v",
    }


def some_clips(videos: Path, count: int, **clip: Any) -> Clips:
    """The first `count` clips of a run on a CPU, whichever device trains; `videos` may be reels."""
    loader = ClipLoader(videos, batch_size=count, device="cpu", num_workers=0, **clip)
    try:
        batch = loader.next_batch()
    finally:
        loader.close()
    return Clips(batch, [loader.paths[video] for video in batch.video.tolist()])


def some_image_paths(prepared: Path, count: int) -> list[list[str]]:
    """Three lists of paths, of RGB, u and v images: all that `count` clips of 16 frames need."""
    source = FrameFolders.found(**layout_arguments(prepared))
    folders = [source.folders(item % len(source)) for item in range(count)]
    return [
        [
            str(path)
            for clip in folders
            for path in sorted(Path(clip[kind]).glob("frame*.jpg"))[: CLIP_FRAMES - 1]
        ]
        for kind in range(3)
    ]
