"""The labels in plain torch operators: what one would write without kernels, to compare with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.labels.partitions import BLOCKS, PATTERN_SLICES, partition
from kernels.labels.schema import OCTANTS, ORIENTATIONS

LEVELS = 256


def torch_labels(frames: Tensor, flow: Tensor) -> Tensor:
    """As `kernels.labels.clip_labels` under `corrected`; flow has exactly T - 1 fields.

    Sums are taken in float64, so that labels are equal but for ties closer than its rounding.
    """
    membership = _membership(frames.shape[2], frames.device)
    return torch.cat([_motion(flow, membership), _appearance(frames, membership)], dim=1)


def _membership(size: int, device: torch.device) -> Tensor:
    """float64 [28,P]: 1 where a block has a pixel."""
    cells = partition(size, "corrected")
    masks = torch.stack([torch.from_numpy(cells.mask(block)) for block in range(BLOCKS)])
    return masks.flatten(1).to(device, torch.float64)


def _motion(flow: Tensor, membership: Tensor) -> Tensor:
    n, fields, size = flow.shape[:3]
    f = flow.permute(0, 4, 1, 2, 3).reshape(2 * n, fields, size, size).float()  # u, v of a clip
    f = F.pad(f, (1, 1, 1, 1), mode="replicate")
    rows = f[:, :, :-2] + f[:, :, 1:-1] + f[:, :, 2:]
    columns = f[..., :-2] + f[..., 1:-1] + f[..., 2:]
    gx = rows[..., 2:] - rows[..., :-2]  # [2N,F,S,S]
    gy = columns[:, :, 2:] - columns[:, :, :-2]
    frame = torch.hypot(gx, gy).sum(dim=(2, 3), dtype=torch.float64).argmax(dim=1)

    x, y = gx.sum(dim=1).flatten(1).double(), gy.sum(dim=1).flatten(1).double()  # [2N,P]
    magnitude = torch.hypot(x, y)
    angle = torch.rad2deg(torch.atan2(y, x)).remainder(360) / (360 / ORIENTATIONS)
    low = angle.floor()
    share = angle - low
    votes = torch.zeros(2 * n, ORIENTATIONS, size * size, dtype=torch.float64, device=flow.device)
    first = low.long()[:, None] % ORIENTATIONS
    votes.scatter_add_(1, first, (magnitude * (1 - share))[:, None])
    votes.scatter_add_(1, (first + 1) % ORIENTATIONS, (magnitude * share)[:, None])
    block_votes = votes @ membership.T  # [2N,8,28]
    mean = magnitude @ membership.T / membership.sum(dim=1)

    labels = []
    for blocks in PATTERN_SLICES:
        position = mean[:, blocks].argmax(dim=1)
        chosen = block_votes[torch.arange(2 * n, device=flow.device), :, blocks.start + position]
        # (u, v) x (position, orientation) of each clip
        labels.append(torch.stack([position, chosen.argmax(dim=1)], dim=1).reshape(n, 4))
    return torch.cat([*labels, frame.reshape(n, 2)], dim=1) + 1


def _appearance(frames: Tensor, membership: Tensor) -> Tensor:
    n, clip_len, size = frames.shape[:3]
    cells = partition(size, "corrected")
    cell = torch.from_numpy(cells.cell_of_pixel.astype("int64")).to(frames.device)
    in_block = torch.zeros(BLOCKS, cells.cells, dtype=torch.float32, device=frames.device)
    in_block[:, cell.flatten()] = membership.float()

    image = torch.arange(n * clip_len * 3, device=frames.device)
    image = image.reshape(n, clip_len, 1, 1, 3) * cells.cells
    index = (image + cell[:, :, None]) * LEVELS + frames
    count = torch.bincount(index.flatten(), minlength=n * clip_len * 3 * cells.cells * LEVELS)
    count = count.reshape(n, clip_len, 3, cells.cells, LEVELS).float()
    block_count = torch.einsum("bc,ntkcl->ntkbl", in_block, count)  # exact: below 2^24
    least, most = block_count.amin(dim=1), block_count.amax(dim=1)  # [N,3,28,256]
    overlap = least.sum(dim=3, dtype=torch.float64) / most.sum(dim=3, dtype=torch.float64)
    overlap = overlap[:, 0] + overlap[:, 1] + overlap[:, 2]  # [N,28]

    red, green, blue = (frames >> 7).long().unbind(dim=4)
    octant = 4 * (1 - blue) + 2 * red + green
    clip = torch.arange(n, device=frames.device)
    index = (clip.reshape(n, 1, 1, 1) * cells.cells + cell) * OCTANTS + octant
    count = torch.bincount(index.flatten(), minlength=n * cells.cells * OCTANTS)
    octants = count.reshape(n, cells.cells, OCTANTS).float()
    block_octants = in_block @ octants  # [N,28,8]

    labels = []
    for blocks in PATTERN_SLICES:
        for position in (overlap[:, blocks].argmin(dim=1), overlap[:, blocks].argmax(dim=1)):
            labels += [position, block_octants[clip, blocks.start + position].argmax(dim=1)]
    labels.append(octants.sum(dim=1).argmax(dim=1))
    return torch.stack(labels, dim=1) + 1
