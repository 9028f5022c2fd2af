"""Accuracy of the labels on held-out clips, beside what a constant answer reaches."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from kernels.labels.schema import LABELS
from model.networks.heads import StatisticsNet
from model.training.precision import Precision
from model.training.signals import next_batch


class Batch(Protocol):
    """What validation needs of a batch of clips."""

    @property
    def frames(self) -> Tensor: ...  # uint8 [N,T,S,S,3]
    @property
    def labels(self) -> Tensor: ...  # int64 [N,27]
    @property
    def video(self) -> Tensor: ...  # int64 [N]


class Loader(Protocol):
    """What validation needs of a loader, whose batches run across the ends of epochs."""

    @property
    def consumed(self) -> int: ...
    @property
    def clips_per_epoch(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...
    def next_batch(self) -> Batch: ...


def once_each(loader: Loader, stop: list[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """(frames, labels) of every video once: the last batch runs on into the next round."""
    loader.set_epoch(-(-loader.consumed // loader.clips_per_epoch))
    epoch, seen = loader.epoch, set[int]()
    while loader.epoch == epoch and (batch := next_batch(loader, stop)) is not None:
        first = {video: n for n, video in enumerate(batch.video.tolist()) if video not in seen}
        seen.update(first)
        new = list(first.values())
        yield batch.frames[new], batch.labels[new]


@torch.no_grad()
def label_counts(
    net: StatisticsNet, clips: Iterable[tuple[Tensor, Tensor]], precision: Precision
) -> tuple[Tensor, Tensor]:
    """(how often each label was right [K], how often each value occurred [K,classes]), int64.

    `clips` yields (frames uint8 [N,T,S,S,3], labels int64 [N,27]); K are the learned labels in the
    order of `net.heads.columns`. Counts of several processes may be added.
    """
    columns = net.heads.columns
    device = next(net.parameters()).device
    hits = torch.zeros(len(columns), dtype=torch.int64, device=device)
    classes = max(label.classes(net.heads.clip_len) for label in LABELS)
    occurred = torch.zeros(len(columns), classes, dtype=torch.int64, device=device)
    was_training = net.training
    net.eval()
    for frames, labels in clips:
        if not len(frames):
            continue
        with precision.autocast():
            predicted = torch.cat(net(frames), dim=1)
        truth = labels[:, columns]
        hits += (net.heads.labels(predicted)[:, columns] == truth).sum(dim=0)
        occurred += torch.nn.functional.one_hot(truth - 1, classes).sum(dim=0)
    net.train(was_training)
    return hits, occurred


def accuracy_and_chance(hits: Tensor, occurred: Tensor) -> tuple[list[float], list[float]]:
    """(accuracy [K], chance [K]) of `label_counts`.

    Chance is the share of the commonest value among the same clips: the labels are far from evenly
    spread, and always giving the same answer scores that much.
    """
    clips = occurred.sum(dim=1)
    return (hits / clips).tolist(), (occurred.amax(dim=1) / clips).tolist()
