"""Pixels for the slots of a stream: the right pipeline for source, flow and device, kept going."""

import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipes.clips import Clip, ClipSpec
from dali_pipes.decoding.encoded import GPU_CODECS
from dali_pipes.decoding.opening import BadVideo, printable
from dali_pipes.flow import NO_FLOW
from dali_pipes.pipelines import cpu as cpu_pipeline
from dali_pipes.pipelines import gpu as gpu_pipeline
from dali_pipes.pipelines.aside import Aside
from dali_pipes.pipelines.fetch import (
    FetchClips,
    FetchEncoded,
    FetchFrames,
    FetchImages,
    FetchReels,
    Share,
)
from dali_pipes.pipelines.fetcher import Fetcher, Fetching, Plan
from dali_pipes.pipelines.images import image_pipeline
from dali_pipes.pipelines.nvdec import trusted_codecs
from dali_pipes.pipelines.running import LoaderStopped, Running
from dali_pipes.pipelines.spawn import quiet_children
from dali_pipes.sources import FrameFolders, Reels, Source, VideoFiles
from dali_pipes.sources.survey import Survey
from dali_pipes.storage import RemoteFiles
from kernels.stages import Clock, nvtx_range

if TYPE_CHECKING:
    from nvidia.dali import Pipeline


def decodes_on_gpu(flow: str, device: torch.device) -> bool:
    """Whether this flow is computed on the GPU, so that frames of videos are decoded there, too."""
    return flow in ("tvl1", "nvof") or (flow == "tvl1-fast" and device.type == "cuda")


@dataclass(frozen=True)
class Received:
    """A batch as it comes from the pipeline: its good clips, and why the others are not."""

    slots: list[int]  # [N], all
    good: list[int]  # [G], places of the good ones among them
    starts: list[int]  # [G], first frame in the video
    frames: Tensor  # uint8 [G,T,S,S,3]
    flow: Tensor  # uint8 [G,F,S,S,2]
    bad: dict[int, BadVideo]  # by place
    seconds: dict[str, float]  # waiting for it, and of all workers together, by stage


@dataclass
class Feed:
    """A share of the stream from its first slot on, batch by batch, on `device`."""

    source: Source
    spec: ClipSpec
    known: Survey
    flow: str
    device: torch.device
    batch_size: int
    workers: int
    prefetch: int  # batches prepared ahead
    decode_threads: int  # of DALI, on a GPU
    stall_seconds: float
    fetching: Fetching

    def __post_init__(self) -> None:
        self.clock = Clock(self.device)
        self.aside = Aside(self.device)
        self._running: Running | None = None
        self._fetcher: Fetcher | None = None

    @property
    def decoder(self) -> str:
        """Who decodes, in words."""
        place = "GPU" if self.device.type == "cuda" else "CPU"
        if self.flow == "stored":
            who = "DALI" if self._by_image else "OpenCV"
            return f"JPEG images on the {place} ({who})"
        if not isinstance(self.source, VideoFiles):
            return "frames on the CPU"
        if self._on_gpu:
            return self._decoders()
        return "video on the CPU (PyAV)"

    @property
    def fetching_words(self) -> str:
        """How clips come from an address; nothing if they lie in a folder."""
        return str(self.fetching) if self._is_remote else ""

    @property
    def _is_remote(self) -> bool:
        return isinstance(self.source, Reels) and isinstance(self.source.files, RemoteFiles)

    @property
    def _on_gpu(self) -> bool:
        return decodes_on_gpu(self.flow, self.device)

    @property
    def _by_image(self) -> bool:
        """Whether DALI decodes images, and so a sample is one instead of a clip."""
        on_gpu = self.device.type == "cuda"
        return self.flow == "stored" and (on_gpu or not isinstance(self.source, Reels))

    @property
    def _trusts_images(self) -> bool:
        """Whether DALI is the first to decode them."""
        folders = isinstance(self.source, FrameFolders) and not self.source.strictly
        return folders and self._by_image

    @property
    def _trusted(self) -> tuple[str, ...]:
        """The codecs that DALI decodes rightly where it decodes."""
        return trusted_codecs(self.device.index, "mixed" if self.device.type == "cuda" else "cpu")

    def _decoders(self) -> str:
        """How many files go to which decoder, as far as they are known, and why."""
        trusted = self._trusted
        lost = [codec for codec in GPU_CODECS if codec not in trusted]
        on_gpu = f"video on the GPU (NVDEC: {', '.join(trusted) or 'not a codec that decodes'})"
        reasons = Counter(self.known.unsure.values())
        fit = reasons.pop("", 0)
        why = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        on_cpu = f"on the CPU (PyAV): {reasons.total()}{why and f' ({why})'}"
        refused = f"; this GPU does not decode {', '.join(lost)}: workers do" if lost else ""
        return f"{on_gpu}: {fit} files; {on_cpu}{refused}"

    @property
    def bytes_ahead(self) -> int:
        """Memory of resized and of cropped pixels in batches under way."""
        pixel = 3 * self.spec.clip_len + 2 * self.spec.flow_fields
        whole, cut = math.prod(self.spec.resize) * pixel, self.spec.size**2 * pixel
        ahead = self.prefetch + self.aside.is_there
        handed = whole if self._by_image or self._on_gpu else cut
        return self.batch_size * ((2 * ahead + 1) * handed + (ahead + 1) * cut)

    @property
    def is_ready(self) -> bool:
        """Whether the next batch can be had at once."""
        return self._running is not None and self._running.is_ready

    def next(self, share: Share, clips: Sequence[Clip]) -> Received:
        """The next batch: `clips`, whose slots begin `share`. Raises LoaderStopped."""
        began = time.perf_counter()
        with nvtx_range("waiting", self.device):
            outputs = self._run(share, clips)
        waited = time.perf_counter() - began
        samples = self.spec.clip_len if self._by_image else 1  # of a clip
        reports = outputs[2].as_array()[::samples]
        bad: dict[int, BadVideo] = {}
        for place in range(len(clips)):
            reason = os.fsdecode(bytes(outputs[3].at(place * samples)).rstrip(b"\0"))
            if reason:
                bad[place] = BadVideo(*reason.split("\0"))
        for place, shape in enumerate(outputs[0].shape() if samples == 1 else ()):
            if shape[0] < self.spec.clip_len and place not in bad:
                reason = f"the GPU decoder gave {shape[0]} of {self.spec.clip_len} frames"
                bad[place] = BadVideo(self.source.paths[clips[place].video], "decode", reason)
        good = [place for place in range(len(clips)) if place not in bad]
        frames = self._clips(outputs[0], good, samples, (self.spec.clip_len, 3))
        if self._on_gpu and self.flow != "nvof":
            flow = self._tvl1_flow(outputs, [(place, clips[place]) for place in good])
        else:
            # There is a field for every frame sample, and a blank one where none is wanted.
            fields = 0 if self.flow == NO_FLOW else self.spec.flow_fields
            flow = self._clips(outputs[1], good, samples, (fields, 2))[:, :fields]
        return Received(
            reports[:, 0].tolist(),
            good,
            reports[good, 1].tolist(),
            self.to_device(frames),
            self.to_device(flow),
            bad,
            {"waiting": waited, **self._worker_seconds(reports)},
        )

    def to_device(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU where batches are; nothing waits for it."""
        if self.device.type == "cpu" or tensor.is_cuda:
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def close(self) -> None:
        """End the workers; what was prepared ahead is lost."""
        running, self._running = self._running, None  # first: an interrupt may end the rest
        fetcher, self._fetcher = self._fetcher, None
        try:
            if running is not None:
                running.close()
        finally:
            if fetcher is not None:
                fetcher.close()

    def _worker_seconds(self, reports: NDArray[np.int64]) -> dict[str, float]:
        """What workers took for the stages that are theirs; DALI does not tell what it takes."""
        decode, flow = (reports[:, 2:].sum(axis=0) / 1e9).tolist()
        by_dali = self._by_image or (self._on_gpu and isinstance(self.source, VideoFiles))
        seconds = {} if by_dali else {"decode": decode}
        by_workers = self.flow == "tvl1-fast" and not self._on_gpu
        return seconds | ({"flow": flow} if by_workers else {})

    def _run(self, share: Share, clips: Sequence[Clip]) -> Any:
        if self._running is None:
            if self._is_remote:
                plan = Plan(cast(Reels, self.source), self.spec, self.flow, share)
                # Workers begin anywhere in the batches under way.
                at_work = self.batch_size * (self.prefetch + 1)
                fetching = replace(self.fetching, ahead=self.fetching.ahead + at_work)
                self._fetcher = Fetcher(plan, fetching, self.stall_seconds)
            self._running = Running(lambda notes: self._start(share, notes), self.stall_seconds)
        try:
            return self._running.next()
        except LoaderStopped as error:
            self.close()
            if self._trusts_images and isinstance(error.__cause__, RuntimeError):
                # DALI ends with the first image that it refuses: find it, and those to come.
                self.source = replace(cast(FrameFolders, self.source), strictly=True)
                return self._run(share, clips)
            names = sorted({printable(self.source.paths[clip.video]) for clip in clips})
            advice = "; choose flow 'tvl1'" if self.flow == "nvof" else ""
            raise LoaderStopped(f"{error}; the batch: {', '.join(names)}{advice}") from error

    def _start(self, share: Share, notes: str) -> "Pipeline":
        if self._fetcher is not None:
            self._fetcher.wait()
        pipeline = self._build(share, notes)
        own = type(self.source).__module__ == "__main__"  # workers need the main module
        with quiet_children(main=own) if self.workers else nullcontext():
            pipeline.build()
        return pipeline

    def _build(self, share: Share, notes: str) -> "Pipeline":
        source = self.source
        if self._fetcher is not None:
            source = replace(cast(Reels, source), files=self._fetcher.files)
        arguments = (self.spec, self.known, share, notes)
        work = (self.workers, self.prefetch)
        if self._by_image:
            images = FetchImages(cast(FrameFolders | Reels, source), *arguments, self.batch_size)
            if self.device.type == "cuda":
                return image_pipeline(
                    images, *work, self.decode_threads, "mixed", self.device.index
                )
            return image_pipeline(images, *work, max(1, self.workers))
        if self._on_gpu:
            encoded = FetchEncoded(source, *arguments, self._trusted, self.flow)
            return gpu_pipeline.video_pipeline(
                encoded, self.batch_size, *work, self.decode_threads, self.device.index
            )
        fetch = {NO_FLOW: FetchFrames, "stored": FetchReels}.get(self.flow, FetchClips)
        clips = fetch(source, *arguments)
        return cpu_pipeline.clip_pipeline(clips, self.batch_size, *work)

    def _clips(self, output: Any, good: list[int], samples: int, of: tuple[int, int]) -> Tensor:
        """A pipeline's output as one tensor of its good clips, without a copy if all are.

        `of`: (frames or fields of a clip, channels).
        """
        if not good:
            return self._no_clips(*of)
        if not output.is_dense_tensor():  # a clip that was cut short is among them
            return torch.stack([self._borrow(output[place]) for place in good])
        tensor = self._borrow(output.as_tensor())
        if samples > 1:
            tensor = tensor.unflatten(0, (-1, samples))
        if len(good) == len(tensor):
            return tensor
        return torch.stack([tensor[place] for place in good])  # an index would be waited for

    def _no_clips(self, length: int, channels: int) -> Tensor:
        shape = (0, length, self.spec.size, self.spec.size, channels)
        return torch.empty(shape, dtype=torch.uint8, device=self.device)

    def _tvl1_flow(self, outputs: Any, clips: list[tuple[int, Clip]]) -> Tensor:
        """Of the frames that the pipeline gave for it, native or, for `tvl1-fast`, resized."""
        from kernels.flow.cuda import tvl1_crops
        from kernels.flow.tvl1 import FAST, NATIVE

        spec = self.spec
        if not clips:
            return self._no_clips(spec.flow_fields, 2)
        fast = self.flow == "tvl1-fast"
        sizes = outputs[4].as_array().round().astype(int).tolist()
        with self.clock.stage("flow", len(clips)):
            flow = tvl1_crops(
                [self._borrow(outputs[1][place]) for place, _ in clips],
                [clip.crop for _, clip in clips],
                [clip.flip for _, clip in clips],
                spec.resize,
                spec.size,
                FAST if fast else NATIVE,
                native_sizes=[tuple(sizes[place]) for place, _ in clips] if fast else None,
            )
        return cast(Tensor, flow)

    def _borrow(self, tensor: Any) -> Tensor:
        """DALI's memory as a torch tensor."""
        return self.aside.borrow(torch.from_dlpack(tensor))
