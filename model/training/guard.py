"""A step that counts only if its gradient is finite, decided where the gradient is."""

from math import isfinite

import torch
from torch import Tensor


def step_if_finite(norm: Tensor, optimizer: torch.optim.SGD, buffers: "Buffers") -> None:
    """An optimiser step if the gradient's norm is finite; else weights, momentum and buffers are as
    before it. The host looks at the norm."""
    if isfinite(norm):
        optimizer.step()
    else:
        buffers.restore()


def step_if_finite_on_device(norm: Tensor, optimizer: torch.optim.SGD, buffers: "Buffers") -> None:
    """The same without the host, by a fused optimiser, which looks at `found_inf` on its own."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            state = optimizer.state[weight]
            if group["momentum"] and state.get("momentum_buffer") is None:
                # A first step that is left out would leave it as it lies in memory.
                state["momentum_buffer"] = torch.zeros_like(weight)
            if weight.grad is not None and weight.grad.stride() != weight.stride():
                # Fused, all must lie in memory alike, down to the strides of sides of length 1.
                weight.grad = torch.empty_like(weight).copy_(weight.grad)
    finite = norm.isfinite()
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    optimizer.step()
    buffers.restore_unless(finite)


class Buffers:
    """What a forward pass changes of a network besides its result: the statistics of batch norm.

    They take in the batch at once, so that a copy from before is the only way back.
    """

    def __init__(self, buffers: list[Tensor]) -> None:
        self._buffers = buffers
        self._before = [torch.empty_like(buffer) for buffer in buffers]

    def remember(self) -> None:
        if self._buffers:
            torch._foreach_copy_(self._before, self._buffers)

    def restore(self) -> None:
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._before)

    def restore_unless(self, condition: Tensor) -> None:
        """`condition`: a bool on the buffers' device."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            torch.where(condition, buffer, before, out=buffer)
