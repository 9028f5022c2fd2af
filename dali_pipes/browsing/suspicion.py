"""What makes the labels of a clip doubtful, found in its pictures and its flow."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kernels.flow.code import FLOW_LIMIT_PX, decode
from kernels.labels.schema import LABELS

# What each kind says, worst first.
KINDS = {
    "blank": "Hardly anything to see: black, or all of one colour. Every label is noise.",
    "static": "Hardly anything moves, so that noise decides where motion changes most.",
    "cut": "The picture changes all at once: a cut, or frames are missing. Flow across that is no "
    "motion, and motion boundaries are largest there.",
    "limit": f"Much of the flow lies at ±{FLOW_LIMIT_PX:g} px a frame, where its code ends: "
    "motion that is faster cannot be told from that.",
    "close": "Two blocks are nearly equal: which of them is the label, noise decides.",
    "twin": "The same pictures are in another video, too. Held-out data may not be held out.",
}

_GRID = 16  # px a side of the pictures that scenes are compared by
_BLANK = 24  # grey levels between the darkest and the lightest hundredth
_STATIC_PX = 0.3  # a frame; a step of the code is 0.16
_CUT, _CUT_TIMES = 20.0, 8.0  # grey levels, and times what is usual in the clip
_LIMIT = 0.01  # of all numbers of the flow
_CLOSE = 0.02  # (largest - second) / largest
_CLOSE_LABELS = 2  # of the six
_TWIN = 2.0  # grey levels, root mean square

POSITIONS = tuple(  # the labels of `position_margins` [2,3], in its order
    label.name
    for source in "uv"
    for label in LABELS
    if label.source == source and label.kind == "position"
)


@dataclass(frozen=True)
class Suspicion:
    """A reason to doubt a clip."""

    kind: str  # of KINDS
    words: str  # what was found
    badness: float  # sorts those of a kind
    twin: int | None = None  # the other clip


@dataclass(frozen=True)
class Scene:
    """A clip as small grey pictures, which is enough to compare scenes: float32 [T,16,16]."""

    grey: NDArray[np.float32]

    @classmethod
    def of(cls, frames: NDArray[np.uint8]) -> "Scene":
        """uint8 RGB [T,S,S,3]."""
        small = [
            cv2.resize(
                cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (_GRID, _GRID),
                interpolation=cv2.INTER_AREA,
            )
            for frame in frames
        ]  # fmt: skip
        return cls(np.stack(small).astype(np.float32))

    @property
    def contrast(self) -> float:
        return float(np.ptp(np.percentile(self.grey, [1, 99])))


def suspicions(
    scene: Scene, flow: NDArray[np.uint8], margins: NDArray[np.float32]
) -> list[Suspicion]:
    """Of one clip: coded flow uint8 [F,S,S,2], and its `position_margins` [2,3]."""
    found = []
    if scene.contrast < _BLANK:
        words = f"grey levels span {scene.contrast:.0f} of 255"
        found.append(Suspicion("blank", words, -scene.contrast))
    fastest = float(np.percentile(np.abs(decode(flow)).max(axis=-1), 99))
    if fastest < _STATIC_PX:
        words = f"99 % of the pixels move less than {fastest:.2f} px a frame"
        found.append(Suspicion("static", words, -fastest))
    changes = np.abs(np.diff(scene.grey, axis=0)).mean(axis=(1, 2))  # [T-1]
    worst, usual = float(changes.max()), float(np.median(changes))
    if worst > max(_CUT, _CUT_TIMES * usual):
        at = int(changes.argmax()) + 1
        place = f"from frame {at} to {at + 1} of {len(scene.grey)}"
        words = f"{place} by {worst:.0f} grey levels, else by {usual:.1f}"
        found.append(Suspicion("cut", words, worst))
    share = float(np.isin(flow, (0, 255)).mean())
    if share > _LIMIT:
        words = f"{100 * share:.0f} % of the flow is at ±{FLOW_LIMIT_PX:g} px"
        found.append(Suspicion("limit", words, share))
    close = {
        name: margin
        for name, margin in zip(POSITIONS, margins.ravel().tolist(), strict=True)
        if margin < _CLOSE
    }
    if len(close) >= _CLOSE_LABELS and fastest >= _STATIC_PX:  # else that is said
        words = ", ".join(f"{name} by {100 * margin:.1f} %" for name, margin in close.items())
        found.append(Suspicion("close", words, len(close)))
    return found


def twins(scenes: Sequence[Scene], videos: Sequence[str]) -> dict[int, tuple[int, float]]:
    """Clips that show what a clip of another video shows: {clip: (the other, how far it is)}.

    The distance is in grey levels, root mean square. Blank clips are alike by nature: left out.
    """
    clear = [n for n, scene in enumerate(scenes) if scene.contrast >= _BLANK]
    if len(clear) < 2:
        return {}
    shown = np.stack([_first_middle_last(scenes[n].grey) for n in clear])  # [M,3*16*16]
    squares = (shown**2).sum(axis=1)
    video = np.asarray(videos)[clear]
    found = {}
    for row, n in enumerate(clear):
        square = squares + squares[row] - 2 * shown @ shown[row]
        far = np.where(video == video[row], np.inf, np.sqrt(np.maximum(square, 0) / shown.shape[1]))
        other = int(far.argmin())
        if far[other] < _TWIN:
            found[n] = (clear[other], float(far[other]))
    return found


def _first_middle_last(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    return grey[[0, len(grey) // 2, -1]].ravel().astype(np.float64)
