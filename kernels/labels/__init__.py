"""The 27 labels: names and ranges, geometry, and the loops and kernels that compute them.

`clip_labels` is imported on first use, so that a decoding worker process, which imports the schema
too, does not pay for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.labels.batch import clip_labels

__all__ = ["clip_labels"]


def __getattr__(name: str) -> Any:
    if name == "clip_labels":
        from kernels.labels.batch import clip_labels

        return clip_labels
    raise AttributeError(f"module 'kernels.labels' has no attribute {name!r}")
