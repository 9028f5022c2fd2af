"""What bounds a run: the mean time of its stages."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

FIRST_STEPS = 3  # not counted: workers start, and a GPU tries its algorithms
DATA_BOUND = 0.1  # from this share of waiting on, loading bounds a run


@dataclass
class _Mean:
    """Of as many numbers as a run has steps, none of which is kept."""

    total: float = 0.0
    count: int = 0

    def add(self, number: float) -> None:
        self.total += number
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count


class Stages:
    """Milliseconds a clip of waiting, decode, flow, labels and step, averaged over steps.

    A mean, for waiting comes in bursts: a median would not see it.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._values: dict[str, _Mean] = defaultdict(_Mean)
        self._period = _Mean()

    def add(self, ms_a_clip: Mapping[str, float], period: float | None = None) -> None:
        """A step's. A stage that is not known may be left out. `period`: ms a clip from step to
        step, of a GPU, which is at flow and labels of the next batch beside the step."""
        self._steps += 1
        if self._steps > FIRST_STEPS:
            for name, ms in ms_a_clip.items():
                self._values[name].add(ms)
            if period is not None:
                self._period.add(period)

    def summary(self, workers: int) -> str:
        """One line, empty for a run of a few steps."""
        if not self._values:
            return ""
        ms = {name: values.value for name, values in self._values.items()}
        share, bound = self._beside(ms) if self._period.count else _in_turn(ms)
        stages = ", ".join(f"{name} {value:.1f}" for name, value in ms.items())
        return (
            f"{stages} ms a clip; {workers} workers; bound by {bound}: {share:.0%} of time waiting"
        )

    def _beside(self, ms: Mapping[str, float]) -> tuple[float, str]:
        """The share of time without a step, and why."""
        period, step, labelled = self._period.value, ms.get("step", 0.0), ms.get("labels", 0.0)
        share = max(0.0, 1 - step / period)
        if share < DATA_BOUND:
            return share, "the network"
        labelled += ms.get("flow", 0.0)
        return share, "flow and labels" if labelled > (1 - DATA_BOUND) * period else "loading"


def _in_turn(ms: Mapping[str, float]) -> tuple[float, str]:
    """The same where one process waits, labels and steps; workers are at theirs meanwhile."""
    waiting, labels, step = (ms.get(name, 0.0) for name in ("waiting", "labels", "step"))
    share = waiting / (waiting + labels + step)
    if share >= DATA_BOUND:
        return share, "loading"
    return share, "labels" if labels > step else "the network"
