"""Video in, labelled clips out: sources, decoding, flow, DALI pipelines and the loader.

`ClipLoader` and `ClipBatch` are imported on first use, so that a decoding worker process, which
imports this package too, does not pay for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_pipes.batch import ClipBatch
    from dali_pipes.loader import ClipLoader

__all__ = ["ClipBatch", "ClipLoader"]


def __getattr__(name: str) -> Any:
    if name == "ClipLoader":
        from dali_pipes.loader import ClipLoader

        return ClipLoader
    if name == "ClipBatch":
        from dali_pipes.batch import ClipBatch

        return ClipBatch
    raise AttributeError(f"module 'dali_pipes' has no attribute {name!r}")
