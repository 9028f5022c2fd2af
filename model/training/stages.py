"""What bounds a run: the mean time of its stages."""

from collections import defaultdict
from collections.abc import Mapping

FIRST_STEPS = 3  # not counted: workers start, and a GPU tries its algorithms
DATA_BOUND = 0.1  # from this share of waiting on, loading bounds a run


class Stages:
    """Milliseconds a clip of waiting, decode, flow, labels and step, averaged over steps.

    A mean, for waiting comes in bursts: a median would not see it.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._values: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def add(self, ms_a_clip: Mapping[str, float]) -> None:
        """A step's. A stage that is not known may be left out."""
        self._steps += 1
        if self._steps > FIRST_STEPS:
            for name, ms in ms_a_clip.items():
                total, count = self._values[name]
                self._values[name] = (total + ms, count + 1)

    def summary(self, workers: int) -> str:
        """One line, empty for a run of a few steps."""
        if not self._values:
            return ""
        ms = {name: total / count for name, (total, count) in self._values.items()}
        waiting, labels, step = (ms.get(name, 0.0) for name in ("waiting", "labels", "step"))
        share = waiting / (waiting + labels + step)  # workers are at theirs meanwhile
        bound = "loading" if share >= DATA_BOUND else "labels" if labels > step else "the network"
        stages = ", ".join(f"{name} {value:.1f}" for name, value in ms.items())
        return (
            f"{stages} ms a clip; {workers} workers; bound by {bound}: {share:.0%} of time waiting"
        )
