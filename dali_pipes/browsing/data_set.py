"""All that is found out of a data set, before anything of it is drawn."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dali_pipes.browsing.clips import Clip
from dali_pipes.browsing.files import File
from dali_pipes.clips import ClipSpec
from dali_pipes.decoding.opening import BadVideo, printable
from dali_pipes.flow import AGREEMENT, FlowName
from dali_pipes.loader import Skip
from dali_pipes.sources import Reels, Source
from kernels.labels.schema import Label
from kernels.labels.words import value_words


@dataclass(frozen=True)
class DataSet:
    """What a page is made of."""

    root: Path | str  # as given; names are relative to it, or to the folder of a list
    source: Source  # the items that were looked at
    items: int  # that there are
    files: dict[int, File]  # those that can be opened, by item
    left_out: Sequence[BadVideo | Skip]
    spec: ClipSpec
    flow: FlowName
    clips: list[Clip]  # at least one; `Clip.video` is an item of `source`
    network: str | None  # what it is, if there is one

    @property
    def labels(self) -> NDArray[np.int64]:  # [N,27]
        return np.stack([clip.labels for clip in self.clips])

    @property
    def predicted(self) -> NDArray[np.int64] | None:  # [N,27], 0 where a label is not learned
        if self.network is None:
            return None
        return np.stack([clip.predicted for clip in self.clips if clip.predicted is not None])

    @property
    def classes(self) -> NDArray[np.int64]:  # [N], negative: none
        return self.source.class_ids[[clip.video for clip in self.clips]]

    @property
    def _each_file(self) -> list[File]:  # once, however many clips of it are listed
        return list({self.source.paths[item]: file for item, file in self.files.items()}.values())

    @property
    def videos(self) -> NDArray[np.intp]:  # [N], the same number for clips of one file
        paths = [self.source.paths[clip.video] for clip in self.clips]
        return np.unique(paths, return_inverse=True)[1]

    @property
    def length(self) -> str:
        """Of all files together."""
        files = self._each_file
        if not any(file.fps for file in files):
            return f"{sum(file.frames for file in files)} frames"
        minutes, seconds = divmod(round(sum(f.frames / f.fps for f in files if f.fps)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What holds for all clips, in words."""
        spec, lengths = self.spec, sorted(file.frames for file in self._each_file)
        height, width = spec.resize
        every = f", one in {spec.stride} of the video" if spec.stride > 1 else ""
        crop = f"centre {spec.size}x{spec.size} of {height}x{width}, not flipped"
        middle = lengths[len(lengths) // 2]
        return [
            ("where", self.source.name),
            ("frames a file", f"{lengths[0]} to {lengths[-1]}, in the middle {middle}"),
            ("clips", f"{spec.clip_len} frames{every}, {crop}"),
            ("labels", f"27, rule {spec.rule}"),
            ("flow", self._flow_in_words),
        ]

    @property
    def _flow_in_words(self) -> str:
        if isinstance(self.source, Reels):
            made = self.source.manifest.flow
            near = AGREEMENT.get(cast(FlowName, made), "a flow that is no more")
            return f"stored in the reels, made as {made}: {near}"
        return f"{self.flow}: {AGREEMENT[self.flow]}"

    @property
    def counts(self) -> list[tuple[str, list[tuple[str, int]]]]:
        """How many files are of each kind, the commonest first."""
        files, names = self._each_file, self.source.class_names

        def commonest(words: Iterable[str]) -> list[tuple[str, int]]:
            return Counter(words).most_common()

        return [
            ("Frame sizes", commonest(f"{file.size[1]}x{file.size[0]}" for file in files)),
            ("Codecs", commonest(file.codec for file in files)),
            (
                "Frames a second",
                commonest(f"{file.fps:.4g}" if file.fps else "not known" for file in files),
            ),
            ("Classes", commonest(names[c] for c in self.source.class_ids if c >= 0)),
        ]

    def name(self, path: str) -> str:
        """A path as it is shown."""
        folder = self.root
        if os.path.isfile(folder):  # a list
            folder = os.path.dirname(os.path.abspath(folder))
        return printable(os.path.relpath(path, folder))

    def class_of(self, item: int) -> str | None:
        number = int(self.source.class_ids[item])
        return printable(self.source.class_names[number]) if number >= 0 else None

    def words(self, label: Label, value: int) -> str:
        """What a value of a label says."""
        if value == 0:
            return "none: nothing moves"
        return value_words(label.name, value, self.spec.rule, self.spec.clip_len)
