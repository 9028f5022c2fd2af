"""Settings and image pyramid of TV-L1 optical flow, for `cpu.py` and `cuda.py`.

For two frames the flow (u, v) minimises

    sum over pixels of  lambda |I1(x + u, y + v) - I0(x, y)| + |grad u| + |grad v|

coarse to fine: at each scale I1 is linearised around the present flow `warps` times, and each time
a pointwise step on the data term and a dual step on the total variation alternate until the flow
rests. Source: Zach, Pock and Bischof, DAGM 2007; conventions of OpenCV's DualTVL1OpticalFlow,
whose defaults made the published data set.

Between its pixels I1 is sampled bicubically, with differences of neighbours for its gradient, as
OpenCV does; or it is a quadratic spline (of B-splines, their coefficients the frame itself) whose
own gradient is taken. That smooths a little, wherever between pixels it is sampled the same, and
I0, sampled at its pixels, as much: 9 instead of 3 x 16 values, and no worse.
"""

from dataclasses import dataclass

LEAST_SIDE = 16  # px: the pyramid goes no lower


@dataclass(frozen=True)
class Tvl1:
    """Settings of TV-L1; the defaults are OpenCV's."""

    scales: int = 5
    scale_step: float = 0.8
    warps: int = 5  # linearisations at each scale
    outer_iterations: int = 10  # at most, for each linearisation: median filter, then iterations
    iterations: int = 30  # at most
    epsilon: float = 0.01  # px: an iteration that changes less (root mean square) is the last
    median: bool = True  # 5x5
    tau: float = 0.25  # step of the dual variables
    lambda_: float = 0.15  # weight of the data term
    theta: float = 0.3  # how tightly data term and smooth flow are coupled
    spline: bool = False  # I1 is sampled as a quadratic spline, not bicubically

    def __post_init__(self) -> None:
        for name in ("scales", "warps", "outer_iterations", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.scale_step < 1:
            raise ValueError(f"scale_step must lie between 0 and 1, got {self.scale_step}")


NATIVE = Tvl1()  # of frames of native size, as published

# Flow on the fly, of frames of training size: the fewest steps with which the labels agree well.
FAST = Tvl1(
    scales=4, scale_step=0.68, warps=1, outer_iterations=1, iterations=15, epsilon=0,
    median=False, theta=0.2, spline=True,
)  # fmt: skip


def pyramid_sizes(height: int, width: int, settings: Tvl1) -> list[tuple[int, int]]:
    """(height, width) of each scale, the finest first; a side below 16 px ends the pyramid."""
    sizes = [(height, width)]
    while len(sizes) < settings.scales:
        height, width = round(height * settings.scale_step), round(width * settings.scale_step)
        if min(height, width) < LEAST_SIDE:
            break
        sizes.append((height, width))
    return sizes
