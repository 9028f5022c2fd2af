"""Which clip is the i-th of a run: the only place where order and randomness are decided.

The stream of clips is endless. `clip_at(i)` is a pure function of the seed and i, so that every
process can compute its own share, a run resumes from one integer, and CPU, GPU and N-rank runs
see the same clips:

    stream        0  1  2  3 | 4  5  6  7 | 8  9 10 11 |     global batches of 4
    rank 0 of 2   0     2    | 4     6    | 8    10    |     every 2nd slot of each
    rank 1 of 2      1     3 |    5     7 |    9    11 |
    epoch         0  0  0  0  0 | 1  1  1  1  1 | 2  2 ...   5 clips an epoch: batches run across
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kernels.labels.schema import Rule, check_domain, flow_fields

MOST = 4096  # frames of a clip, and pixels of a side


@dataclass(frozen=True)
class ClipSpec:
    """What every clip of a run has in common. Sizes are (height, width) in pixels."""

    clip_len: int = 16  # frames
    stride: int = 1  # video frames from one clip frame to the next
    resize: tuple[int, int] = (128, 171)
    size: int = 112  # side of the square crop
    rule: Rule = "corrected"
    flip: bool = True  # flip every other clip, at random
    clips_per_video: int = 1  # clips of each video in an epoch
    sampling: Literal["random", "even"] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        check_domain(self.rule, self.size, self.clip_len)
        if min(self.resize) < self.size:
            height, width = self.resize
            raise ValueError(
                f"a crop of {self.size}x{self.size} does not fit in frames resized to "
                f"{height}x{width}; raise resize or lower size"
            )
        for name, least, most in (
            *((name, 1, MOST) for name in ("clip_len", "stride", "size")),
            ("clips_per_video", 1, 2**20),
            ("seed", 0, 2**64 - 1),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must lie in {least}..{most}, got {getattr(self, name)}")
        if max(self.resize) > MOST:
            height, width = self.resize
            raise ValueError(f"frames of {height}x{width} are too large; {MOST} a side at most")

    @property
    def flow_fields(self) -> int:
        """Flow fields of a clip."""
        return flow_fields(self.rule, self.clip_len)

    @property
    def frames_for_flow(self) -> int:
        """Frames to read where flow is computed: `reference` needs one past the clip."""
        return max(self.clip_len, self.flow_fields + 1)

    @property
    def needs(self) -> int:
        """Video frames that a clip needs, flow included, from its first to its last."""
        return self.span(self.frames_for_flow)

    def span(self, frames: int) -> int:
        """Video frames from the first to the last of `frames` clip frames, both counted."""
        return (frames - 1) * self.stride + 1


@dataclass(frozen=True)
class Clip:
    """One slot of the stream. The start frame follows from `position` once the video is known."""

    epoch: int
    video: int  # index into the source's items
    position: float  # [0, 1]: where in the video the clip starts, as a share of possible starts
    crop: tuple[int, int]  # (top, left) in the resized frame
    flip: bool


def start_frame(position: float, n_frames: int, span: int) -> int:
    """First frame (0-based) of a clip that spans `span` of `n_frames` video frames.

        0         start            n_frames
        |-----------[===span===]------|      starts 0..n_frames-span are equally likely

    Raises ValueError if the video is shorter than the clip.
    """
    if n_frames < span:
        raise ValueError(f"has {n_frames} frames, a clip needs {span}")
    return min(int(position * (n_frames - span + 1)), n_frames - span)


def clip_start(
    position: float, listed: int | None, packets: int, decoded: int | None, span: int
) -> int:
    """Where a clip of a real video starts: as listed, or else drawn by `start_frame`.

    `decoded` is the true count where decoding has shown fewer frames than there are packets. The
    answer is the same whether that was known before or is found while the clip is decoded: a
    start that fits stays as it was drawn. Raises ValueError if the clip does not fit.
    """
    if listed is not None:
        available = packets if decoded is None else decoded
        if listed + span > available:
            raise ValueError(
                f"has {available} frames, the listed clip needs {listed + 1} to {listed + span}"
            )
        return listed
    start = start_frame(position, packets, span)
    if decoded is None or start + span <= decoded:
        return start
    return start_frame(position, decoded, span)


def clip_at(i: int, videos: int, spec: ClipSpec) -> Clip:
    """The i-th clip of the endless stream over `videos` videos (i >= 0).

    Sampling "random" (for training) shuffles every epoch and draws start, crop and flip; "even"
    (for evaluation) goes through the videos in order and takes `clips_per_video` clips of each
    from its first possible start to its last, centre crop, not flipped.
    """
    clips_per_epoch = videos * spec.clips_per_video
    epoch, slot = divmod(i, clips_per_epoch)
    height, width = spec.resize
    if spec.sampling == "even":
        video, clip = divmod(slot, spec.clips_per_video)
        position = clip / (spec.clips_per_video - 1) if spec.clips_per_video > 1 else 0.5
        return Clip(
            epoch, video, position, ((height - spec.size) // 2, (width - spec.size) // 2), False
        )
    video = int(_epoch_order(spec.seed, epoch, clips_per_epoch)[slot]) % videos
    # Raw generator words, not NumPy's distributions: those may change between releases.
    words = np.random.Philox(key=[spec.seed, i], counter=[0, 0, 0, 1]).random_raw(4)
    position, top, left, coin = (float(word >> 11) * 2.0**-53 for word in words.astype(object))
    crop = (int(top * (height - spec.size + 1)), int(left * (width - spec.size + 1)))
    return Clip(epoch, video, position, crop, spec.flip and coin < 0.5)


def videos_at(slots: NDArray[np.int64], videos: int, spec: ClipSpec) -> NDArray[np.int64]:
    """The video of each of some slots: what `clip_at` says of them, for many at once."""
    epochs, within = np.divmod(slots, videos * spec.clips_per_video)
    if spec.sampling == "even":
        return within // spec.clips_per_video
    found = np.empty_like(slots)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        order = _epoch_order(spec.seed, epoch, videos * spec.clips_per_video)
        found[here] = order[within[here]] % videos
    return found


@lru_cache(maxsize=2)  # a batch can run across an epoch's end
def _epoch_order(seed: int, epoch: int, clips: int) -> NDArray[np.intp]:
    """A permutation of 0..clips-1, drawn anew each epoch."""
    return np.argsort(np.random.Philox(key=[seed, epoch]).random_raw(clips), kind="stable")


def rank_slots(consumed: int, batch_size: int, rank: int, world_size: int) -> range:
    """The stream indices that `rank` takes of the global batch that starts at `consumed`."""
    return range(consumed + rank, consumed + batch_size * world_size, world_size)
