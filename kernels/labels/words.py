"""What a label's value says, in words and as a colour, for pictures and tables."""

from kernels.labels.schema import INDEX, LABELS, REFERENCE_CLIP_LEN, Rule

# By value, from 1. Orientations turn clockwise, for y points down.
DIRECTIONS = (
    "→ right", "↘ down right", "↓ down", "↙ down left", "← left", "↖ up left", "↑ up", "↗ up right",
)  # fmt: skip
COLOURS = ("blue", "cyan", "magenta", "light", "dark", "green", "red", "yellow")
BLOCKS = (
    tuple(f"row {row}, column {column}" for row in (1, 2, 3, 4) for column in (1, 2, 3, 4)),
    ("centre", "inner ring", "outer ring", "border"),
    (
        "left, above middle", "top, left of middle", "top, right of middle", "right, above middle",
        "left, below middle", "bottom, left of middle", "bottom, right of middle",
        "right, below middle",
    ),
)  # fmt: skip


def value_words(
    name: str, value: int, rule: Rule = "corrected", clip_len: int = REFERENCE_CLIP_LEN
) -> str:
    """What `value` of the label `name` says, e.g. "row 2, column 3" or "grows ↘ down right".

    Under `reference` a value can be 0: "none", nothing moved. Raises ValueError on other values
    that the label cannot take.
    """
    label = LABELS[INDEX[name]]
    if value == 0 and rule == "reference" and label.family == "motion":
        return "none"
    if not 1 <= value <= label.classes(clip_len):
        raise ValueError(f"label {name} lies in 1..{label.classes(clip_len)}, got {value}")
    match label.kind:
        case "position":
            assert label.pattern is not None
            return BLOCKS[label.pattern - 1][value - 1]
        case "orientation":
            # Orientation is where the flow component grows; the published code has the gradient's
            # sign turned.
            verb = "falls" if rule == "reference" else "grows"
            return f"{verb} {DIRECTIONS[value - 1]}"
        case "colour":
            return COLOURS[value - 1]
        case "frame":
            return f"strongest in flow {value} of {label.classes(clip_len)}"


def octant_rgb(value: int) -> tuple[float, float, float]:
    """The middle of colour octant 1..8 as (red, green, blue) in 0..1."""
    k = value - 1  # 4 (1 - blue) + 2 red + green, each the top bit of its channel
    red, green, blue = k >> 1 & 1, k & 1, 1 - (k >> 2)
    return 0.25 + 0.5 * red, 0.25 + 0.5 * green, 0.25 + 0.5 * blue
