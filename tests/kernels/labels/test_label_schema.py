"""The list of labels: order, ranges, and for which clips it is defined."""

import pytest

from kernels.labels.schema import (
    APPEARANCE,
    INDEX,
    LABELS,
    MOTION,
    NAMES,
    RULES,
    check_domain,
    flow_fields,
)

# As labels_27.npz names its columns.
ORDER = (
    "u1p u1o v1p v1o u2p u2o v2p v2o u3p u3o v3p v3o ug vg "
    "1dp 1dc 1cp 1cc 2dp 2dc 2cp 2cc 3dp 3dc 3cp 3cc gc"
)


def test_order_and_ranges() -> None:
    assert " ".join(NAMES) == ORDER
    assert [INDEX[name] for name in NAMES] == list(range(27))
    assert NAMES[MOTION] + NAMES[APPEARANCE] == NAMES
    assert all(one.family == "motion" for one in LABELS[MOTION])
    assert all(one.family == "appearance" for one in LABELS[APPEARANCE])
    classes = {name: LABELS[INDEX[name]].classes(clip_len=10) for name in NAMES}
    assert [classes[name] for name in ("u1p", "v2p", "3cp", "u1o", "2dc", "gc", "ug")] == [
        16, 4, 8, 8, 8, 8, 9,
    ]  # fmt: skip


def test_every_label_says_what_it_is() -> None:
    words = [one.words for one in LABELS]
    assert len(set(words)) == 27
    assert words[INDEX["v3o"]] == "v, triangles: their direction there"
    assert words[INDEX["2cc"]] == "most consistent colour, rings: its dominant colour"


def test_the_published_rule_needs_one_flow_field_more() -> None:
    assert [flow_fields(rule, 16) for rule in RULES] == [15, 16]
    with pytest.raises(ValueError, match="choose one of corrected, reference"):
        flow_fields("Corrected", 16)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "size", "clip_len", "message"),
    [
        ("reference", 224, 16, "got 16 frames of 224x224; use rule 'corrected'"),
        ("reference", 112, 8, "got 8 frames of 112x112; use rule 'corrected'"),
        ("corrected", 100, 16, "multiple of 8, got 100"),
        ("corrected", 0, 16, "multiple of 8, got 0"),
        ("corrected", 112, 1, "at least 2 frames, got 1"),
    ],
)
def test_clips_without_labels_are_refused(rule, size: int, clip_len: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_domain(rule, size, clip_len)
