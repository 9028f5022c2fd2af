"""From what was found to the page, and to the data that its script works with."""

import base64
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dali_pipes.browsing.cards import card_groups, hex_colour
from dali_pipes.browsing.data_set import DataSet
from dali_pipes.browsing.network import MISTAKES, hits, wrong
from dali_pipes.browsing.places import SIDE, blocks
from dali_pipes.browsing.suspicion import KINDS
from dali_pipes.drawing.page import PREDICTED, TRUE
from dali_pipes.pages.render import page
from kernels.labels.schema import LABELS, OCTANTS, PATTERN_BLOCKS

_HERE = Path(__file__).parent


def html(found: DataSet) -> str:
    """The whole page."""
    predicted = found.predicted
    kinds = Counter(doubt.kind for clip in found.clips for doubt in clip.suspicions)
    return page(
        _HERE / "browse.html",
        f"Labels of {os.path.basename(os.path.abspath(found.root))}",
        script=(_HERE / "browse.js").read_text(encoding="utf-8"),
        style=Markup((_HERE / "browse.css").read_text(encoding="utf-8")),
        colours={"true": TRUE, "predicted": PREDICTED},
        found=found,
        left_out=[(found.name(bad.path), f"{bad.stage}: {bad.reason}") for bad in found.left_out],
        doubts=[(kind, words, kinds[kind]) for kind, words in KINDS.items()],
        groups=card_groups(found),
        hits=[] if predicted is None else hits(found.labels, predicted),
        mistakes=MISTAKES,
        data=Markup(_json(_data(found))),
    )


def _data(found: DataSet) -> dict[str, Any]:
    predicted, length = found.predicted, found.spec.clip_len
    errors = None if predicted is None else wrong(found.labels, predicted)
    return {
        "clipLength": length,
        "span": (length - 1) * found.spec.stride + 1,  # video frames from its first to its last
        "side": SIDE,
        "kinds": KINDS,
        "blocks": [[place.path for place in blocks(p + 1)] for p in range(len(PATTERN_BLOCKS))],
        "colours": [hex_colour(octant + 1) for octant in range(OCTANTS)],
        "labels": [
            {
                "name": label.name,
                "words": label.words,
                "kind": label.kind,
                "pattern": label.pattern,
                "source": label.source,
                "values": [found.words(label, v) for v in range(label.classes(length) + 1)],
            }
            for label in LABELS
        ],
        "clips": [
            {
                "video": found.name(found.source.paths[clip.video]),
                "class": found.class_of(clip.video),
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


def _json(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("&", "\\u0026")
