"""Fine-tuning: the pre-trained backbone and a new linear classifier learn the actions together."""

from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.evaluation.features import Batch, Table, by_video, check_finite
from model.networks.backbone import Backbone
from model.training import checkpoint
from model.training.checkpoint import NotFinite
from model.training.precision import Precision
from model.training.restore import restore

ADVICE = "fine-tune with a lower --lr or --precision float32, into another --out"


class Classifier(nn.Module):
    """A backbone, dropout and a linear layer: uint8 frames [N,T,S,S,3] -> logits [N,C]."""

    def __init__(self, backbone: Backbone, n_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(backbone.channels, n_classes)

    def forward(self, frames: Tensor) -> Tensor:
        return self.linear(self.dropout(self.backbone(frames))).float()


class Loader(Protocol):
    """What fine-tuning needs of a loader; one iteration is an epoch."""

    def __iter__(self) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class _Generator:
    """The random numbers of torch, as a part of a checkpoint."""

    load_state_dict = staticmethod(torch.set_rng_state)


def train(
    net: Classifier,
    loader: Loader,
    classes: Tensor,
    epochs: int,
    lr: float,
    weight_decay: float,
    precision: Precision,
    folder: Path,
    settings: dict[str, Any],
    network: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Cross-entropy by SGD with momentum 0.9; the learning rate falls to 0 along a cosine.

    `classes` int64 [V] gives each video's class. A checkpoint in `folder` after every epoch lets
    an interrupted training continue; one of other `settings` is a ValueError. It says by `network`
    which one it holds, for other tasks. Raises NotFinite where the loss or the weights are no
    longer finite.
    """
    device = next(net.parameters()).device
    classes = classes.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.scaled)
    parts: dict[str, Any] = {
        "net": net,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "scaler": scaler,
        "loader": loader,
    }
    first = 0
    if found := checkpoint.newest(folder):
        path, saved = found
        if saved.get("settings") != settings:
            raise ValueError(
                f"{path}: is of a fine-tuning with other settings; choose another --out"
            )
        restore(parts | {"generator": _Generator()}, saved, path)
        first = saved["step"]
        say(f"resuming after epoch {first} ({path})")
    for epoch in range(first, epochs):
        net.train()
        total, hits, clips = 0.0, 0, 0
        for batch in loader:
            if len(batch.video) < 2:  # batch norm needs two clips
                continue
            target = classes[batch.video]
            with precision.autocast():
                logits = net(batch.frames)
            loss = nn.functional.cross_entropy(logits, target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if not isfinite(value := float(loss.detach())):
                raise NotFinite(f"the loss of epoch {epoch + 1} is {value}; {ADVICE}")
            total += value * len(target)
            hits += int((logits.argmax(dim=1) == target).sum())
            clips += len(target)
        if not clips:
            raise ValueError("no batch of an epoch had two clips that could be read")
        scheduler.step()
        say(f"epoch {epoch + 1}/{epochs}  loss {total / clips:.4f}  accuracy {hits / clips:.1%}")
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        state |= {"step": epoch + 1, "settings": settings, "network": network}
        state |= {"generator": torch.get_rng_state()}
        try:
            checkpoint.save(folder, state, step=epoch + 1, keep=1)
        except NotFinite as error:
            raise NotFinite(f"{error} after epoch {epoch + 1}; {ADVICE}") from error


def probabilities(
    net: Classifier, batches: Iterable[Batch], clips_per_video: int, precision: Precision
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(video, softmax [K,C] of its clips) for each video that has a clip; NaN for missing clips."""
    net.eval()

    def describe(frames: Tensor) -> Table:
        with torch.no_grad(), precision.autocast():
            softmax = net(frames).softmax(dim=1).cpu().numpy()
        return check_finite({"softmax": softmax}, ADVICE)

    for video, clips in by_video(batches, describe, clips_per_video):
        yield video, clips["softmax"]
