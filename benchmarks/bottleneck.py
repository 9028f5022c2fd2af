"""Which stage holds training back, and how far the next one is: arithmetic on measured stages."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """How long a clip keeps one unit of a resource busy, in microseconds."""

    stage: str
    resource: str  # CPU cores, GPU, video decoder
    us: float


def limits(costs: Sequence[Cost], units: dict[str, int]) -> list[str]:
    """What bounds training, in sentences. `units`: how many of a resource there are.

    Stages on one resource add up, resources work side by side: the busiest one sets the pace.
    """
    pace = {name: _busy(costs, name) / count for name, count in units.items()}
    first, *others = sorted((name for name in pace if pace[name]), key=lambda name: -pace[name])
    found = [
        f"{first} set the pace: at best {_rate(pace[first])} clips/s, "
        "if nothing but the stages took time"
    ]
    stages = sorted((cost for cost in costs if cost.resource == first), key=lambda cost: -cost.us)
    total = sum(cost.us for cost in stages)
    shares = ", ".join(f"{cost.stage} {100 * cost.us / total:.0f} %" for cost in stages)
    found.append(f"bottleneck: {stages[0].stage}; of the time of {first}: {shares}")
    for cost in stages[:2]:
        bounds = [pace[name] for name in others]
        without = max([(total - cost.us) / units[first], *bounds])
        best = f"{_rate(without)} clips/s" if without else "nothing left to bound it"
        found.append(f"without {cost.stage}: {best}")
    if len(stages) > 1:
        found.append(
            f"next stage: {stages[1].stage}, {stages[0].us / stages[1].us:.1f} times less costly"
        )
    if others:
        busy = 100 * pace[others[0]] / pace[first]
        found.append(f"next resource: {others[0]}, busy {busy:.0f} % of the time")
    return found


def _busy(costs: Sequence[Cost], resource: str) -> float:
    return sum(cost.us for cost in costs if cost.resource == resource)


def _rate(us: float) -> str:
    return f"{1e6 / us:.3g}"
