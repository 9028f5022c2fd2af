"""What every task works with: the network, its precision, its clips, and what was left out."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from dali_pipes import ClipLoader
from dali_pipes.loader import Skip
from dali_pipes.sources import Source
from model.evaluation.network import Loaded
from model.networks.backbone import Backbone
from model.training.precision import Precision


@dataclass
class Work:
    """What every task works with."""

    args: Namespace
    network: Loaded
    device: torch.device
    precision: Precision
    left_out: dict[str, str] = field(default_factory=dict)  # path: why
    warnings: list[str] = field(default_factory=list)

    @property
    def backbone(self) -> Backbone:
        return self.network.backbone

    def clips(self, source: Source, **more: Any) -> ClipLoader:
        """A loader of unlabelled clips of the source."""
        args = self.args
        return ClipLoader(
            source,
            clip_len=args.clip_len,
            size=args.size,
            resize=args.resize,
            stride=args.stride,
            labels=False,
            device=self.device,
            num_workers=args.num_workers,
            seed=args.seed,
            on_skip=self.skipped,
            **more,
        )

    def skipped(self, skip: Skip) -> None:
        self.left_out.setdefault(skip.path, f"{skip.stage}: {skip.reason}")

    def once(self, source: Source) -> Iterator[Any]:
        """Batches with every clip of every video exactly once, in order."""
        k = self.args.clips_per_video
        total = len(source) * k
        # Batches run across the ends of epochs; of these sizes a whole number makes an epoch.
        size = max(n for n in range(1, self.args.bs + 1) if total % n == 0)
        loader = self.clips(source, batch_size=size, clips_per_video=k, sampling="even")
        try:
            yield from tqdm(loader, unit="batch", disable=not sys.stderr.isatty())
        finally:
            loader.close()

    def protocol(self, **more: Any) -> dict[str, Any]:
        """How it was done, common part first."""
        args = self.args
        height, width = args.resize
        clips = f"{args.clips_per_video} a video, evenly spread, {args.clip_len} frames"
        clips += f" (every {args.stride}.)" if args.stride > 1 else ""
        return {
            "network": self.network.words,
            "precision": f"{self.precision.name} on {self.device.type}",
            "clips": f"{clips}, resized to {height}x{width}, centre crop {args.size}",
            **more,
        }
