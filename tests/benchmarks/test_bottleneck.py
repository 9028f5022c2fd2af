"""The arithmetic of what limits training, on made-up costs."""

from benchmarks.bottleneck import Cost, limits

CORES = [
    Cost("decode", "CPU cores", 20_000),
    Cost("flow", "CPU cores", 60_000),
    Cost("step", "CPU cores", 120_000),
]


def test_stages_on_the_same_cores_add_up() -> None:
    found = limits(CORES, {"CPU cores": 2})
    assert found[0].startswith("CPU cores set the pace: at best 10 clips/s")
    assert found[1] == (
        "bottleneck: step; of the time of CPU cores: step 60 %, flow 30 %, decode 10 %"
    )
    assert found[2:4] == ["without step: 25 clips/s", "without flow: 14.3 clips/s"]
    assert found[4] == "next stage: flow, 2.0 times less costly"


def test_the_busiest_resource_sets_the_pace_and_the_next_bounds_what_can_be_won() -> None:
    costs = [*CORES[:2], Cost("step", "GPU", 10_000), Cost("labels", "GPU", 100)]
    found = limits(costs, {"CPU cores": 4, "GPU": 1, "video decoder": 1})
    assert found[0].startswith("CPU cores set the pace: at best 50 clips/s")
    assert "bottleneck: flow" in found[1]
    assert found[2] == "without flow: 99 clips/s"  # the GPU's, not the 200 that decoding allows
    assert found[-1] == "next resource: GPU, busy 50 % of the time"
