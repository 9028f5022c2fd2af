"""What the loader yields: a batch of clips with their labels, on the training device."""

from dataclasses import dataclass, fields

from torch import Tensor, int64, uint8
from torch import bool as bool8

from kernels.labels.schema import LABELS


@dataclass(frozen=True)
class ClipBatch:
    """N clips. N may be below the batch size, even 0: clips of bad files are left out.

    Raises ValueError on construction if a field has another shape or dtype.
    """

    frames: Tensor  # uint8 [N,T,S,S,3], RGB; frames.permute(0,4,1,2,3) is channels-last-3d
    flow: Tensor  # uint8 [N,F,S,S,2], (u right, v down), coded: kernels.flow.code
    labels: Tensor  # int64 [N,27], order and ranges of kernels.labels.schema.LABELS
    video: Tensor  # int64 [N], index into ClipLoader.paths
    start: Tensor  # int64 [N], first frame of the clip in its video, 0-based
    crop: Tensor  # int64 [N,2], (top, left) of the crop in the resized frame
    flip: Tensor  # bool [N], whether the clip is mirrored

    def __post_init__(self) -> None:
        n, t, s = self.frames.shape[:3] if self.frames.ndim == 5 else (-1, -1, -1)
        f = self.flow.shape[1] if self.flow.ndim == 5 else -1
        wanted = {
            "frames": ((n, t, s, s, 3), uint8),
            "flow": ((n, f, s, s, 2), uint8),
            "labels": ((n, len(LABELS)), int64),
            "video": ((n,), int64),
            "start": ((n,), int64),
            "crop": ((n, 2), int64),
            "flip": ((n,), bool8),
        }
        for name, (shape, dtype) in wanted.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise ValueError(
                    f"ClipBatch.{name} must be {dtype} {list(shape)}, "
                    f"got {tensor.dtype} {list(tensor.shape)}"
                )

    def __len__(self) -> int:
        return len(self.video)

    def clips(self, rows: Tensor) -> "ClipBatch":
        """These clips only: rows int64 [M], on the batch's device."""
        return ClipBatch(*(getattr(self, field.name)[rows] for field in fields(self)))
