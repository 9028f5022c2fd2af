"""How clear a clip's motion labels are: the margin of the largest block over the second.

A clip whose motion boundaries are spread evenly has labels that chance decides.
"""

from functools import cache

import torch
from torch import Tensor

from kernels.labels.partitions import PATTERN_SLICES, partition


def position_margins(flow: Tensor) -> Tensor:
    """Flow [N,F,S,S,2], uint8-coded or float32, F >= 1 -> float32 [N,2,3] in 0..1.

    For u and v and the three patterns (largest - second) / largest, where a block counts with its
    mean motion boundary as in the position labels. 0 for a clip without motion. Computed where the
    flow lies; on a GPU without waiting for it.
    """
    x, y = _boundaries(flow)
    magnitude = torch.sqrt(x * x + y * y).movedim(-1, 1)  # [N,2,S,S]
    blocks = magnitude.flatten(2) @ _block_means(flow.shape[2], flow.device)  # [N,2,28]
    margins = []
    for pattern in PATTERN_SLICES:
        largest, second = blocks[..., pattern].topk(2, dim=-1).values.unbind(-1)
        margins.append((largest - second) / largest.clamp(min=torch.finfo(largest.dtype).tiny))
    return torch.stack(margins, dim=-1)


def _boundaries(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Prewitt gradients summed over the fields, border replicated: two float32 [N,S,S,2].

    The sum of gradients is the gradient of the sum, which is taken first.
    """
    total = flow.sum(dim=1, dtype=torch.float32)  # exact for coded flow
    rows = torch.cat([total[:, :1], total, total[:, -1:]], dim=1)
    padded = torch.cat([rows[:, :, :1], rows, rows[:, :, -1:]], dim=2)  # [N,S+2,S+2,2]
    down = padded[:, 2:] - padded[:, :-2]  # [N,S,S+2,2]
    right = padded[:, :, 2:] - padded[:, :, :-2]  # [N,S+2,S,2]
    y = down[:, :, :-2] + down[:, :, 1:-1] + down[:, :, 2:]
    x = right[:, :-2] + right[:, 1:-1] + right[:, 2:]
    return x, y


@cache
def _block_means(size: int, device: torch.device) -> Tensor:
    """float32 [S*S,28]: multiplied by it, pixels give the mean of each block."""
    cells = partition(size)
    masks = [
        torch.from_numpy(cells.mask(block)).flatten() / float(area)
        for block, area in enumerate(cells.area)
    ]
    return torch.stack(masks, dim=1).to(device, torch.float32)
