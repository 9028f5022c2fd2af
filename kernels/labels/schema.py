"""The 27 labels: their names, meaning, ranges and order, defined once.

Everything that needs to know a label (heads, TensorBoard tags, pictures, CUDA `#define`s)
derives it from `LABELS`. Source: Wang et al., TPAMI 2021 (arXiv 2008.13426), sections 3.2-3.4;
order and ranges as in the authors' published code.
"""

from dataclasses import dataclass
from typing import Literal

Rule = Literal["corrected", "reference"]

RULES: tuple[Rule, ...] = ("corrected", "reference")
PATTERN_BLOCKS = (16, 4, 8)  # squares, nested rings, triangles
ORIENTATIONS = 8  # bins of 45 degrees; bin 1 points right, bin 3 points down
OCTANTS = 8  # colours: one bit each of blue, red and green

# The published code has fixed lengths; the `reference` rule exists for them only.
REFERENCE_SIZE = 112
REFERENCE_CLIP_LEN = 16


@dataclass(frozen=True)
class Label:
    """One column of the label matrix. Values are 1-based: 1..classes."""

    name: str  # short name, e.g. "u1p"
    family: Literal["motion", "appearance"]
    kind: Literal["position", "orientation", "colour", "frame"]
    pattern: int | None  # 1 squares, 2 rings, 3 triangles, None: the whole clip
    source: Literal["u", "v", "diverse", "consistent", "clip"]  # what the block is chosen by

    def classes(self, clip_len: int = REFERENCE_CLIP_LEN) -> int:
        """How many values the label can take for clips of `clip_len` frames."""
        match self.kind:
            case "position":
                assert self.pattern is not None
                return PATTERN_BLOCKS[self.pattern - 1]
            case "orientation":
                return ORIENTATIONS
            case "colour":
                return OCTANTS
            case "frame":
                return clip_len - 1

    @property
    def words(self) -> str:
        """The label in words, e.g. "u, squares: where motion boundaries are largest"."""
        region = "whole clip" if self.pattern is None else PATTERN_NAMES[self.pattern - 1]
        subject = {
            "u": "u, ",
            "v": "v, ",
            "diverse": "most diverse colour, ",
            "consistent": "most consistent colour, ",
            "clip": "",
        }[self.source]
        what = {
            ("motion", "position"): "where motion boundaries are largest",
            ("motion", "orientation"): "their direction there",
            ("motion", "frame"): "frame with the largest motion boundaries",
            ("appearance", "position"): "which block",
            ("appearance", "colour"): "its dominant colour",
        }[self.family, self.kind]
        return f"{subject}{region}: {what}"


PATTERN_NAMES = ("squares", "rings", "triangles")


def _motion_labels() -> list[Label]:
    labels = [
        Label(f"{source}{pattern}{kind[0]}", "motion", kind, pattern, source)
        for pattern in (1, 2, 3)
        for source in ("u", "v")
        for kind in ("position", "orientation")
    ]
    return labels + [Label(f"{source}g", "motion", "frame", None, source) for source in ("u", "v")]


def _appearance_labels() -> list[Label]:
    labels = [
        Label(f"{pattern}{source[0]}{kind[0]}", "appearance", kind, pattern, source)
        for pattern in (1, 2, 3)
        for source in ("diverse", "consistent")
        for kind in ("position", "colour")
    ]
    return [*labels, Label("gc", "appearance", "colour", None, "clip")]


LABELS: tuple[Label, ...] = (*_motion_labels(), *_appearance_labels())
NAMES: tuple[str, ...] = tuple(label.name for label in LABELS)
INDEX: dict[str, int] = {name: column for column, name in enumerate(NAMES)}

_N_MOTION = sum(label.family == "motion" for label in LABELS)
MOTION = slice(0, _N_MOTION)  # the motion columns of a label matrix [N,27]
APPEARANCE = slice(_N_MOTION, len(LABELS))  # the appearance columns


def flow_fields(rule: Rule, clip_len: int) -> int:
    """Flow fields a clip needs: the published code sums one field past the last frame."""
    check_rule(rule)
    return clip_len if rule == "reference" else clip_len - 1


def check_rule(rule: str) -> None:
    """Raise ValueError unless `rule` is one of `RULES`."""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} does not exist; choose one of {', '.join(RULES)}")


def check_domain(rule: Rule, size: int, clip_len: int) -> None:
    """Raise ValueError unless the rule is defined for clips of `clip_len` frames of size x size."""
    check_rule(rule)
    if rule == "reference" and (size, clip_len) != (REFERENCE_SIZE, REFERENCE_CLIP_LEN):
        raise ValueError(
            f"rule 'reference' exists for {REFERENCE_CLIP_LEN} frames of "
            f"{REFERENCE_SIZE}x{REFERENCE_SIZE} only, got {clip_len} frames of {size}x{size}; "
            "use rule 'corrected'"
        )
    if size % 8 or size <= 0:
        raise ValueError(f"frame size must be a positive multiple of 8, got {size}")
    if clip_len < 2:
        raise ValueError(f"a clip needs at least 2 frames, got {clip_len}")
