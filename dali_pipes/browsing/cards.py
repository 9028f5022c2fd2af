"""Every label as it is drawn: its values where they live, and how they are spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dali_pipes.browsing.data_set import DataSet
from dali_pipes.browsing.places import Place, blocks, petals
from dali_pipes.browsing.statistics import Spread, spreads
from kernels.labels.schema import Label
from kernels.labels.words import octant_rgb

_GROUPS = {
    "u": "Horizontal motion (u)",
    "v": "Vertical motion (v)",
    "diverse": "Colours that change most",
    "consistent clip": "Colours that change least, and the clip's main colour",
}


@dataclass(frozen=True)
class Mark:
    """A value of a label."""

    value: int
    words: str
    count: int
    share: float  # of all clips
    tint: float  # beside the commonest value, 0..1
    place: Place | None
    colour: str | None  # of a colour octant


@dataclass(frozen=True)
class Card:
    """A label."""

    label: Label
    spread: Spread
    drawings: list[tuple[str, list[Mark]]]  # "value" and, of a network, "predicted"
    commonest: str


def card_groups(found: DataSet) -> list[tuple[str, list[Card]]]:
    """The cards of all 27 labels, under headings."""
    predicted = found.predicted
    all_spreads = spreads(found.labels, found.spec.clip_len, found.classes, found.videos)
    cards = [
        _card(found, spread, None if predicted is None else predicted[:, column])
        for column, spread in enumerate(all_spreads)
    ]
    return [
        (title, [card for card in cards if card.label.source in sources.split()])
        for sources, title in _GROUPS.items()
    ]


def hex_colour(octant: int) -> str:
    """A colour octant, as CSS writes it."""
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in octant_rgb(octant))


def _card(found: DataSet, spread: Spread, predicted: NDArray[np.int64] | None) -> Card:
    drawings = [("value", _marks(found, spread.label, spread.counts))]
    if predicted is not None and predicted.any():  # 0: not learned
        counts = np.bincount(predicted, minlength=len(spread.counts))
        drawings.append(("predicted", _marks(found, spread.label, counts)))
    return Card(spread.label, spread, drawings, found.words(spread.label, spread.commonest))


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
            found.words(label, value),
            int(counts[value]),
            float(shares[value]),
            float(shares[value] / shares.max()),
            places[value - 1] if value else None,
            hex_colour(value) if value and label.kind == "colour" else None,
        )
        for value in range(len(counts))
        if value or counts[0]  # none is said where there is any
    ]
