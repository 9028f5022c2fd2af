"""Where cost stops growing linearly, on made-up curves."""

from benchmarks.growth import bends


def curve(what: str, *us: float) -> list[dict[str, object]]:
    return [
        {"section": "growth", "what": what, "batch": 2**n, "us_per_clip": one}
        for n, one in enumerate(us)
    ]


def test_a_curve_is_level_from_some_batch_on() -> None:
    assert bends(curve("labels", 400, 200, 105, 100, 104)) == [
        "labels: a clip costs the same from batch 4 to 16"
    ]


def test_a_curve_that_rises_again_is_told_from_a_level_one() -> None:
    rows = curve("labels", 100, 100, 100) + curve("loader", 300, 100, 150, 200)
    assert bends([{"section": "stage"}, *rows]) == [
        "labels: a clip costs the same from batch 1 to 4",
        "loader: cheapest at batch 2; a clip costs more up to 8",
    ]
