"""A rank that notes every clip it gets, and can be killed: `torchrun ... audit.py ARGUMENTS`.

Rank 0 writes a line a global batch, once all ranks have it: what a checkpoint would hold. Started
again with the same log, whatever the number of ranks, the stream goes on after the last line.

    {"consumed": 8, "clips": [[slot, "class/video", start, digest of pixels and labels], ...]}
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dali_pipes import ClipLoader
from dali_pipes.clips import clip_at, rank_slots

CLIPS: dict[str, Any] = {"resize": (24, 32), "size": 24, "clip_len": 8, "device": "cpu"}


def clips(loader: ClipLoader) -> list[tuple[int, str, int, str]]:
    """Of the next batch, without those left out: slot, video, first frame and what it shows."""
    slots = rank_slots(loader.consumed, loader.batch_size, loader.rank, loader.world_size)
    batch = loader.next_batch()
    found = []
    at = 0
    for slot in slots:
        clip = clip_at(slot, len(loader.paths), loader.spec)
        if at == len(batch) or (clip.video, *clip.crop) != (batch.video[at], *batch.crop[at]):
            continue
        shown = (batch.frames[at], batch.flow[at], batch.labels[at])
        digest = hashlib.sha1(b"".join(part.numpy().tobytes() for part in shown)).hexdigest()
        name = "/".join(loader.paths[clip.video].split("/")[-2:])
        found.append((slot, name, int(batch.start[at]), digest))
        at += 1
    assert at == len(batch)
    return found


def lines(log: Path) -> Iterator[dict[str, Any]]:
    """What was noted, as far as it was written whole."""
    if log.exists():
        yield from map(json.loads, log.read_text().split("\n")[:-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reels", required=True)
    parser.add_argument("--caches", required=True)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    args = parser.parse_args()
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    loader = ClipLoader(
        reels=args.reels,
        cache=os.path.join(args.caches, os.environ["GROUP_RANK"]),
        node_ranks=int(os.environ["LOCAL_WORLD_SIZE"]),
        rank=rank,
        world_size=world_size,
        batch_size=2,
        num_workers=1,
        stall_seconds=20,
        **CLIPS,
    )
    noted = [line["consumed"] for line in lines(args.notes)] if rank == 0 else []
    begun = [noted[-1] if noted else 0]
    dist.broadcast_object_list(begun)
    loader.load_state_dict({**loader.state_dict(), "consumed": begun[0]})
    while loader.epoch < args.epochs:
        everywhere: list[Any] = [None] * world_size
        dist.all_gather_object(everywhere, clips(loader))
        if rank == 0:
            line = {"consumed": loader.consumed, "clips": list(chain(*everywhere))}
            with open(args.notes, "a") as log:
                log.write(json.dumps(line) + "\n")
    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
