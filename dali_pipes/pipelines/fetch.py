"""From a slot of the stream to what a DALI pipeline takes in: the work of a decoding worker.

A fetch is called with DALI's `SampleInfo` or `BatchInfo` and never raises for a bad clip: it
returns a placeholder of the same shapes, and the reason, by which the loader leaves the slot out.
"""

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.clips import Clip, ClipSpec, clip_at, clip_start
from dali_pipes.decoding.encoded import GPU_CODECS, encoded_clip
from dali_pipes.decoding.opening import BadVideo, TooShort
from dali_pipes.decoding.pictures import Unsure
from dali_pipes.decoding.pixels import resized
from dali_pipes.flow import compile_fast_flow, fast_flow, fitted, flow_size
from dali_pipes.pipelines.trace import Trace
from dali_pipes.sources import FrameFolders, Reels, Source, VideoFiles
from dali_pipes.sources.index import UNKNOWN, Index, Row, index_at
from dali_pipes.sources.lists import NO_START
from dali_pipes.sources.survey import Survey, probe

FLOW_UNIT_LEAST = 32  # px a side: what NVIDIA's flow unit of an H100 takes at least
_WRITE_EVERY_SECONDS = 5.0  # what is lost when a worker ends is found out again

Arrays = tuple[NDArray[Any], ...]


class Share(NamedTuple):
    """Which slots of the stream a process takes: every `step`-th from `first`."""

    first: int
    step: int

    def slot(self, number: int) -> int:
        return self.first + number * self.step


def numbers_from(start: int, spec: ClipSpec) -> range:
    """The video frames of a clip from frame `start` on, those for its flow included."""
    return range(start, start + spec.needs, spec.stride)


def shown_and_fields(numbers: range, spec: ClipSpec) -> tuple[range, range]:
    """Of a clip's video frames, those that it shows, and those whose stored fields it has."""
    return numbers[: spec.clip_len], numbers[: spec.flow_fields]


class Fetch:
    """What all fetches share: which clip a slot is, where it starts, and how failures come back.

    Every clip is (arrays of the kind ..., crop int32 [2], flip int32, flow mask uint8 [1,1,1,2],
    report int64 [4] = (slot, start frame, ns opening and decoding, ns at flow), reason uint8 [n],
    empty if all is well). It is one sample of DALI's. Where `cuts`, crop, flip and mask are not
    among them.
    """

    for_gpu = False  # whether a GPU is to decode
    cuts = False  # whether crop and flip are done here, and so not handed over

    def __init__(
        self, source: Source, spec: ClipSpec, known: Survey, share: Share, notes: str
    ) -> None:
        self.source, self.spec, self.known, self.share = source, spec, known, share
        self.trace = Trace(notes)
        self._unwritten: list[Row] = []
        self._written = time.monotonic()
        self.ready()

    def __call__(self, info: Any) -> Any:
        return self.clip(info.idx_in_epoch)

    def clip(self, number: int) -> Arrays:
        """The clip in the `number`-th slot of the share."""
        slot = self.share.slot(number)
        clip = clip_at(slot, len(self.source), self.spec)
        start, reason = -1, b""
        try:
            start, arrays = self._read(clip)
        except BadVideo as error:
            arrays = self.placeholder()
            reason = os.fsencode("\0".join((error.path, error.stage, error.reason)))
        finally:
            self.trace.write("", "")
        spent = self.trace.spent_ns
        return (
            *arrays,
            *(() if self.cuts else _where_to_cut(clip)),
            np.array([slot, start, spent["open"] + spent["decode"], spent["flow"]], np.int64),
            np.frombuffer(reason, np.uint8),
        )

    def read(self, clip: Clip, numbers: range) -> Arrays:
        """The arrays of a clip. Raises BadVideo."""
        raise NotImplementedError

    def placeholder(self) -> Arrays:
        """Arrays of the shapes that `read` returns."""
        raise NotImplementedError

    def ready(self) -> None:
        """Do before the first clip what is done once: in this process, then in every worker."""

    def _read(self, clip: Clip) -> tuple[int, Arrays]:
        path = self.source.paths[clip.video]
        self.trace.write("open", path)
        frames, decoded = self._counts(clip.video)
        for attempt in range(2):
            start = self._start(clip, frames, decoded)
            numbers = numbers_from(start, self.spec)
            self.trace.write("decode", path)
            try:
                return start, self.read(clip, numbers)
            except TooShort as error:
                if attempt or not 0 < error.frames < frames:
                    raise
                decoded = error.frames
                self._keep(clip.video, frames, decoded)
        raise AssertionError

    def _start(self, clip: Clip, frames: int, decoded: int | None) -> int:
        listed = int(self.source.starts[clip.video])
        span = self.spec.needs
        try:
            return clip_start(
                clip.position, None if listed == NO_START else listed, frames, decoded, span
            )
        except ValueError as error:
            raise BadVideo(self.source.paths[clip.video], "open", str(error)) from error

    def _counts(self, item: int) -> tuple[int, int | None]:
        """(frames as probed, true count if decoding showed fewer), probing what is unknown."""
        if item in self.known.bad:
            raise self.known.bad[item].with_traceback(None)  # or it gathers frames for ever
        if self.known.frames[item] == UNKNOWN:
            path, stamp = self.source.paths[item], self.source.stamp(item)
            row = self._open_index().row(path)
            if row is None or row.stamp != stamp or not row.serves(self.for_gpu):
                try:
                    row = probe(self.source, item, stamp, self.for_gpu)
                except BadVideo as error:
                    self.known.bad[item] = error
                    raise
                self._write(row)
            self.known.learn(item, row)
            return self._counts(item)
        decoded = int(self.known.decoded[item])
        return int(self.known.frames[item]), None if decoded == UNKNOWN else decoded

    def _keep(self, item: int, frames: int, decoded: int) -> None:
        """Remember that decoding proved fewer frames, in this process and in the index."""
        self.known.decoded[item] = decoded
        self._write()
        row = self._open_index().row(self.source.paths[item])
        if row is not None and row.info.frames == frames:
            self._write(replace(row, decoded=decoded))
            self._write()

    def _write(self, row: Row | None = None) -> None:
        """A row into the index, with others: many workers write to one file. None: at once."""
        if row is not None:
            self._unwritten.append(row)
        if row is None or time.monotonic() - self._written > _WRITE_EVERY_SECONDS:
            self._open_index().put(self._unwritten)
            self._unwritten, self._written = [], time.monotonic()

    def _open_index(self) -> Index:
        path = self.source.index_path
        return Index(None) if path is None else index_at(path)  # a process opens its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        parent = parent_process()
        if parent is not None:  # in a worker
            cv2.setNumThreads(1)  # workers are the parallelism
            threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()
            self.ready()


def _where_to_cut(clip: Clip) -> Arrays:
    return (
        np.array(clip.crop, np.int32),
        np.array(clip.flip, np.int32),
        # Mirrored, motion to the right becomes motion to the left: 255 - q is q ^ 255.
        np.array([[[[255 * clip.flip, 0]]]], np.uint8),
    )


def end_with(sentinel: int) -> None:
    """End this process when another does: a killed run must not leave its workers behind."""
    wait([sentinel])
    os._exit(1)


class FetchPixels(Fetch):
    """Frames uint8 [T,S,S,3] and coded flow uint8 [F,S,S,2], cut and mirrored."""

    cuts = True

    def placeholder(self) -> Arrays:
        size = self.spec.size
        return (
            np.zeros((self.spec.clip_len, size, size, 3), np.uint8),
            np.zeros((self.spec.flow_fields, size, size, 2), np.uint8),
        )


class FetchClips(FetchPixels):
    """With flow `tvl1-fast`, computed here."""

    def ready(self) -> None:
        compile_fast_flow()

    def read(self, clip: Clip, numbers: range) -> Arrays:
        frames, native = self.source.read_clip(clip.video, numbers, self.spec.resize)
        self.trace.write("flow", self.source.paths[clip.video])
        flow = fast_flow(frames, native)
        return cut_frames(frames, clip, self.spec), cut_flow(flow, clip, self.spec)


class FetchFrames(FetchPixels):
    """Frames only; DALI takes no empty arrays, so flow is one field of zeros."""

    def read(self, clip: Clip, numbers: range) -> Arrays:
        shown, _ = shown_and_fields(numbers, self.spec)
        frames, _ = self.source.read_clip(clip.video, shown, self.spec.resize)
        return cut_frames(frames, clip, self.spec), self.placeholder()[1]

    def placeholder(self) -> Arrays:
        frames, flow = super().placeholder()
        return frames, flow[:1]


class FetchReels(FetchPixels):
    """Frames and stored flow of reels."""

    source: Reels

    def read(self, clip: Clip, numbers: range) -> Arrays:
        item = clip.video
        shown, fields = shown_and_fields(numbers, self.spec)
        frames, flow = self.source.read_encoded(item, shown, fields)
        return (
            cut_frames(self.source.frames_of(item, frames, shown), clip, self.spec),
            cut_flow(self.source.fields_of(item, flow, fields), clip, self.spec),
        )


def cut_frames(
    frames: Iterable[NDArray[np.uint8]], clip: Clip, spec: ClipSpec
) -> NDArray[np.uint8]:
    """The clip's part of its resized frames [h,w,3], mirrored if it is: uint8 [T,S,S,3]."""
    size, (top, left) = spec.size, clip.crop
    cut = np.empty((spec.clip_len, size, size, 3), np.uint8)
    for place, frame in zip(cut, frames, strict=False):
        part = frame[top : top + size, left : left + size]
        if clip.flip:
            cv2.flip(part, 1, dst=place)
        else:
            place[...] = part
    return cut


def cut_flow(fields: Iterable[NDArray[np.uint8]], clip: Clip, spec: ClipSpec) -> NDArray[np.uint8]:
    """The clip's part of its coded flow, of which u and v are planes [2,h,w]: uint8 [F,S,S,2]."""
    size, (top, left) = spec.size, clip.crop
    cut = np.empty((spec.flow_fields, size, size, 2), np.uint8)
    for place, field in zip(cut, fields, strict=False):
        u, v = field[:, top : top + size, left : left + size]
        if clip.flip:  # mirrored, motion to the right becomes motion to the left
            u, v = 255 - u[:, ::-1], v[:, ::-1]
        place[..., 0], place[..., 1] = u, v
    return cut


class FetchEncoded(Fetch):
    """A clip for a GPU decoder, or, where that could fail, the clip decoded here:

    encoded uint8 [n], its first frame int32, which of its pixels to keep int32 [2] and [2] (top
    and left, height and width), whether it was decoded here bool, fitted size float32 [2], and if
    so frames resized uint8 [T,h,w,3] and fitted uint8 [F+1,h',w',3], else one small frame each.
    Fitted: at the size that flow is measured in. `tvl1-fast` is found on F+1 resized frames and
    takes none fitted.
    """

    def __init__(
        self,
        source: Source,
        spec: ClipSpec,
        known: Survey,
        share: Share,
        notes: str,
        codecs: tuple[str, ...] = GPU_CODECS,
        flow: str = "tvl1",
    ) -> None:
        super().__init__(source, spec, known, share, notes)
        self._codecs, self.flow = codecs, flow
        self.for_gpu = isinstance(source, VideoFiles)

    def read(self, clip: Clip, numbers: range) -> Arrays:
        item = clip.video
        if self.for_gpu and not self.known.unsure.get(item):
            try:
                return self._encoded(self.source.paths[item], numbers)
            except Unsure as reason:
                self.known.unsure[item] = str(reason)
        frames, size = self.source.read_clip(item, numbers, None)
        if self.flow == "nvof" and min(size) < FLOW_UNIT_LEAST:
            least = f"NVIDIA's flow unit takes {FLOW_UNIT_LEAST} pixels a side or more"
            why = f"is {size[1]}x{size[0]}; {least}: choose flow 'tvl1'"
            raise BadVideo(self.source.paths[item], "flow", why)
        return self._decoded(frames, size)

    def _encoded(self, path: str, numbers: range) -> Arrays:
        clip = encoded_clip(path, numbers, self._codecs)
        return (
            *clip.arrays(),
            np.array(False),
            np.array(flow_size((clip.window.height, clip.window.width)), np.float32),
            *(_NO_FRAMES,) * 2,
        )

    def placeholder(self) -> Arrays:
        size = FLOW_UNIT_LEAST, FLOW_UNIT_LEAST
        return self._decoded(np.zeros((self.spec.frames_for_flow, *size, 3), np.uint8), size)

    def _decoded(self, frames: NDArray[np.uint8], native_size: tuple[int, int]) -> Arrays:
        fast = self.flow == "tvl1-fast"
        small = [resized(frame, self.spec.resize) for frame in frames[: self.resized_frames]]
        return (
            np.zeros(1, np.uint8),
            np.array(0, np.int32),
            *(np.zeros(2, np.int32),) * 2,
            np.array(True),
            np.array(flow_size(native_size), np.float32),
            np.stack(small),
            _NO_FRAMES if fast else np.stack([fitted(frame) for frame in frames]),
        )

    @property
    def resized_frames(self) -> int:
        """Of a clip: what is shown, and what `tvl1-fast` needs."""
        spec = self.spec
        return spec.frames_for_flow if self.flow == "tvl1-fast" else spec.clip_len


_NO_FRAMES = np.zeros((1, 8, 8, 3), np.uint8)


class FetchImages(Fetch):
    """A batch of clips at once, an image a sample: encoded uint8 [n], of each kind.

    Kinds are RGB, u and v of frame folders, RGB and u above v of reels. Of `batch_size` clips of T
    frames it gives batch_size * T samples, what a clip has besides images T times and as one array
    each: DALI takes long over many small ones. Reasons are padded with zeros. Images are read once:
    what was examined is what DALI decodes.
    """

    source: FrameFolders | Reels

    def __init__(
        self,
        source: FrameFolders | Reels,
        spec: ClipSpec,
        known: Survey,
        share: Share,
        notes: str,
        batch_size: int,
    ) -> None:
        super().__init__(source, spec, known, share, notes)
        self.batch_size = batch_size
        height, width = spec.resize
        shapes = [(height, width, 3), (2 * height, width)]  # of reels, which are not resized
        if isinstance(source, FrameFolders):
            shapes = [(8, 8, 3), (8, 8), (8, 8)]
        self._blank = [cv2.imencode(".jpg", np.zeros(shape, np.uint8))[1] for shape in shapes]

    @property
    def kinds(self) -> int:
        return len(self._blank)

    def __call__(self, info: Any) -> Any:
        first = info.iteration * self.batch_size
        clips = [self.clip(first + n) for n in range(self.batch_size)]
        frames = self.spec.clip_len
        images = [
            [image for clip in clips for image in clip[kind * frames : (kind + 1) * frames]]
            for kind in range(self.kinds)
        ]
        *facts, reasons = zip(*(clip[self.kinds * frames :] for clip in clips), strict=True)
        padded = np.array([reason.tobytes() for reason in reasons])[:, None].view(np.uint8)
        return (
            *images,
            *(np.repeat(fact, frames, axis=0) for fact in (*map(np.stack, facts), padded)),
        )

    def read(self, clip: Clip, numbers: range) -> Arrays:
        """All images of one kind, then of the next; blank ones where flow has fewer fields."""
        kinds = self.source.read_encoded(clip.video, *shown_and_fields(numbers, self.spec))
        frames = self.spec.clip_len
        return tuple(
            image
            for images, blank in zip(kinds, self._blank, strict=True)
            for image in (*images, *(blank,) * (frames - len(images)))
        )

    def placeholder(self) -> Arrays:
        return tuple(blank for blank in self._blank for _ in range(self.spec.clip_len))
