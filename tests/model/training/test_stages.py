"""What bounds a run: means without the first steps, and the rule."""

import pytest

from model.training.stages import FIRST_STEPS, Stages


def summary(*steps: dict[str, float], period: float | None = None) -> str:
    stages = Stages()
    for _ in range(FIRST_STEPS):
        stages.add({"waiting": 1e6, "labels": 1e6, "step": 1e6}, period and 1e6)
    for step in steps:
        stages.add(step, period)
    return stages.summary(2)


def test_means_of_the_steps_that_know_a_stage_without_the_first() -> None:
    line = summary({"waiting": 0, "step": 30}, {"waiting": 4, "flow": 5, "step": 50})
    assert line.startswith("waiting 2.0, step 40.0, flow 5.0 ms a clip; 2 workers;")
    assert summary() == ""


@pytest.mark.parametrize(
    ("waiting", "labels", "step", "bound"),
    [
        (9.9, 0, 90.1, "the network: 10% of time waiting"),
        (10, 0, 90, "loading: 10% of time waiting"),
        (80, 19, 1, "loading: 80% of time waiting"),
        (1, 60, 39, "labels: 1% of time waiting"),
    ],
)
def test_rule(waiting: float, labels: float, step: float, bound: str) -> None:
    line = summary({"waiting": waiting, "decode": 500, "labels": labels, "step": step})
    assert line.endswith(f"bound by {bound}")


@pytest.mark.parametrize(
    ("waiting", "flow", "step", "bound"),
    [
        (60, 40, 91, "the network: 9% of time waiting"),  # that the host waits hinders nobody
        (60, 40, 89, "loading: 11% of time waiting"),
        (0, 89, 50, "flow and labels: 50% of time waiting"),
        (95, 20, 50, "loading: 50% of time waiting"),
        (0, 40, 120, "the network: 0% of time waiting"),
    ],
)
def test_rule_of_a_gpu(waiting: float, flow: float, step: float, bound: str) -> None:
    stages = {"waiting": waiting, "flow": flow, "labels": 2, "step": step}
    assert summary(stages, period=100).endswith(f"bound by {bound}")
