"""From what was found to the page: figures, words, drawings, and the data its script works with."""

import base64
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dali_pipes.browsing.clips import Clip
from dali_pipes.browsing.files import File
from dali_pipes.browsing.network import MISTAKES, Network, hits, wrong
from dali_pipes.browsing.places import SIDE, Place, blocks, petals
from dali_pipes.browsing.statistics import ONE_ANSWER, Spread, spreads
from dali_pipes.browsing.suspicion import KINDS
from dali_pipes.decoding.opening import BadVideo, printable
from dali_pipes.drawing.page import PREDICTED, TRUE
from dali_pipes.flow import AGREEMENT, FlowName
from dali_pipes.loader import ClipLoader, Skip
from dali_pipes.pages.render import page
from dali_pipes.sources import Reels, Source
from kernels.labels.schema import LABELS, PATTERN_BLOCKS, Label
from kernels.labels.words import octant_rgb, value_words

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class DataSet:
    """What a page is made of."""

    root: Path  # what names are relative to
    source: Source  # the items that were looked at
    items: int  # that there are
    files: dict[int, File]  # by item of `source`
    left_out: Sequence[BadVideo | Skip]
    loader: ClipLoader  # of the items that clips were taken of
    clips: list[Clip]  # at least one
    network: Network | None

    @property
    def labels(self) -> NDArray[np.int64]:  # [N,27]
        return np.stack([clip.labels for clip in self.clips])

    @property
    def predicted(self) -> NDArray[np.int64] | None:  # [N,27]
        if self.network is None:
            return None
        return np.stack([clip.predicted for clip in self.clips if clip.predicted is not None])

    def name(self, path: str) -> str:
        return printable(os.path.relpath(path, self.root))


def html(found: DataSet) -> str:
    """The whole page."""
    spec = found.loader.spec
    videos = np.unique(
        [found.loader.paths[clip.video] for clip in found.clips], return_inverse=True
    )
    classes = found.loader.source.class_ids[[clip.video for clip in found.clips]]
    labels, predicted = found.labels, found.predicted
    cards = [
        _card(found, spread, None if predicted is None else predicted[:, column])
        for column, spread in enumerate(spreads(labels, spec.clip_len, classes, videos))
    ]
    return page(
        _HERE / "browse.html",
        f"{printable(found.root.name or str(found.root))}: what its labels say",
        script=(_HERE / "browse.js").read_text(encoding="utf-8"),
        style=Markup((_HERE / "browse.css").read_text(encoding="utf-8")),
        colours={"true": TRUE, "predicted": PREDICTED},
        overview=_overview(found),
        left_out=[(found.name(bad.path), f"{bad.stage}: {bad.reason}") for bad in found.left_out],
        groups=_groups(cards),
        one_answer=ONE_ANSWER,
        suspicions=_suspicions(found.clips),
        hits=[] if predicted is None else hits(labels, predicted),
        mistakes=MISTAKES,
        network=found.network and found.network.pretrained.words,
        clips=len(found.clips),
        data=Markup(_json(_data(found))),
    )


# What the data are


def _overview(found: DataSet) -> dict[str, Any]:
    spec, files = found.loader.spec, list(found.files.values())
    timed = [file for file in files if file.fps]
    seconds = sum(file.frames / file.fps for file in timed)
    lengths = sorted(file.frames for file in files)
    classes = [found.source.class_names[c] for c in found.source.class_ids if c >= 0]
    height, width = spec.resize
    middle = lengths[len(lengths) // 2]
    every = f", every {spec.stride}." if spec.stride > 1 else ""
    crop = f"centre {spec.size}x{spec.size} of {height}x{width}, not flipped"
    rates = (f"{file.fps:.4g}" if file.fps else "not known" for file in files)
    return {
        "where": printable(found.source.name),
        "opened": len(found.source),
        "items": found.items,
        "hours": _hours(seconds) if timed else f"{sum(lengths)} frames",
        "lengths": f"{lengths[0]} to {lengths[-1]}, half of them up to {middle}",
        "clips": f"{spec.clip_len} frames{every}, {crop}",
        "rule": spec.rule,
        "flow": _flow(found),
        "counts": [
            ("Frame sizes", _counts("x".join(map(str, file.size[::-1])) for file in files)),
            ("Codecs", _counts(file.codec for file in files)),
            ("Frames a second", _counts(rates)),
            ("Classes", _counts(map(printable, classes))),
        ],
    }


def _flow(found: DataSet) -> str:
    if isinstance(found.source, Reels):
        made = cast("FlowName", found.source.manifest.flow)
        return f"stored in the reels, made as {made}: {AGREEMENT[made]}"
    return f"{found.loader.flow}: {AGREEMENT[cast('FlowName', found.loader.flow)]}"


def _hours(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _counts(words: Any) -> list[tuple[str, int]]:
    return Counter(words).most_common()


# The labels


@dataclass(frozen=True)
class Mark:
    """A value of a label as it is drawn."""

    value: int
    words: str
    count: int
    share: float  # of all clips
    tint: float  # beside the commonest value, 0..1
    place: Place | None
    colour: str | None  # of a colour octant


@dataclass(frozen=True)
class Card:
    """A label as it is drawn."""

    label: Label
    spread: Spread
    drawings: list[tuple[str, list[Mark]]]  # by "value" and, of a network, "predicted"
    commonest: str


def _card(found: DataSet, spread: Spread, predicted: NDArray[np.int64] | None) -> Card:
    drawings = [("value", _marks(found, spread.label, spread.counts))]
    if predicted is not None and predicted.any():
        counts = np.bincount(predicted, minlength=len(spread.counts))
        drawings.append(("predicted", _marks(found, spread.label, counts)))
    words = _words(found, spread.label, spread.commonest)
    return Card(spread.label, spread, drawings, words)


def _marks(found: DataSet, label: Label, counts: NDArray[np.int64]) -> list[Mark]:
    shares = counts / counts.sum()
    places: Sequence[Place | None] = [None] * (len(counts) - 1)
    if label.kind == "position":
        assert label.pattern is not None
        places = blocks(label.pattern)
    elif label.kind == "orientation":
        places = petals(shares[1:])
    return [
        Mark(
            value,
            _words(found, label, value),
            int(counts[value]),
            float(shares[value]),
            float(shares[value] / shares.max()),
            places[value - 1] if value else None,
            _hex(value) if label.kind == "colour" else None,
        )
        for value in range(len(counts))
        if value or counts[0]  # 0, none, is said where there is any
    ]


def _words(found: DataSet, label: Label, value: int) -> str:
    if value == 0:
        return "none: nothing moves"
    return value_words(label.name, value, found.loader.spec.rule, found.loader.spec.clip_len)


def _hex(octant: int) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in octant_rgb(octant))


_GROUPS = {
    "u": "Horizontal motion (u)",
    "v": "Vertical motion (v)",
    "diverse": "Colours that change most",
    "consistent": "Colours that change least",
    "clip": "Main colour",
}


def _groups(cards: Sequence[Card]) -> list[tuple[str, list[Card]]]:
    return [
        (title, [card for card in cards if card.label.source == source])
        for source, title in _GROUPS.items()
    ]


# The clips


def _suspicions(clips: Sequence[Clip]) -> list[tuple[str, str, int]]:
    """(kind, what it says, how many clips)."""
    kinds = Counter(suspicion.kind for clip in clips for suspicion in clip.suspicions)
    return [(kind, words, kinds[kind]) for kind, words in KINDS.items()]


def _data(found: DataSet) -> dict[str, Any]:
    """What the script of the page works with."""
    source, spec = found.loader.source, found.loader.spec
    predicted = found.predicted
    errors = None if predicted is None else wrong(found.labels, predicted)
    return {
        "clipLength": spec.clip_len,
        "side": SIDE,
        "kinds": KINDS,
        "blocks": [[place.path for place in blocks(p + 1)] for p in range(len(PATTERN_BLOCKS))],
        "colours": [_hex(octant) for octant in range(1, 9)],
        "labels": [
            {
                "name": label.name,
                "words": label.words,
                "kind": label.kind,
                "pattern": label.pattern,
                "source": label.source,
                "values": [
                    _words(found, label, value) for value in range(label.classes(spec.clip_len) + 1)
                ],
            }
            for label in LABELS
        ],
        "clips": [
            {
                "video": found.name(source.paths[clip.video]),
                "class": _class(source, clip.video),
                "start": clip.start,
                "labels": clip.labels.tolist(),
                "predicted": None if clip.predicted is None else clip.predicted.tolist(),
                "wrong": None if errors is None else int(errors[n]),
                "arrows": clip.arrows.reshape(-1, 2).tolist(),
                "doubts": [
                    [doubt.kind, doubt.words, doubt.twin, round(doubt.badness, 4)]
                    for doubt in clip.suspicions
                ],
                "film": base64.b64encode(clip.film).decode(),
            }
            for n, clip in enumerate(found.clips)
        ],
    }


def _class(source: Source, item: int) -> str | None:
    number = int(source.class_ids[item])
    return printable(source.class_names[number]) if number >= 0 else None


def _json(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("&", "\\u0026")
