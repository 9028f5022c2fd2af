"""What this machine can do at best, measured: copying memory and multiplying matrices."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks import timing
from benchmarks.labels import threads

COPIED = 2**27  # bytes: more than the caches hold
SIDE = {"cpu": 2048, "cuda": 8192}  # of square matrices
DTYPES = {  # that matrices have in the number formats of a network
    "float32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second read and written by a copy, and operations a second of a matrix product."""

    core_copy: float  # one core
    copy: float  # all cores, or the GPU's memory
    to_device: float | None  # from pinned memory to the GPU; None without one
    matmul: float
    precision: str  # of the product

    def rows(self) -> list[dict[str, Any]]:
        device = "GPU" if self.to_device else "all cores"
        rows: list[dict[str, Any]] = [
            _row("copy, 1 core", gb_per_s=self.core_copy / 1e9),
            _row(f"copy, {device}", gb_per_s=self.copy / 1e9),
        ]
        if self.to_device:
            rows.append(_row("copy to the GPU", gb_per_s=self.to_device / 1e9))
        product = f"matrix product, {self.precision}, {device}"
        return [*rows, _row(product, tflop_per_s=self.matmul / 1e12)]


def _row(what: str, **value: float) -> dict[str, Any]:
    ((name, number),) = value.items()
    return {"section": "ceiling", "what": what, name: timing.digits(number)}


def measure(device: torch.device, precision: str, seconds: float) -> Ceilings:
    """`precision`, a name of `DTYPES`, is the format that the network computes in."""
    source = np.zeros(COPIED, np.uint8)
    target = np.zeros_like(source)
    with threads(1):
        core = timing.timed(lambda: np.copyto(target, source), seconds / 4).seconds
    matrix = torch.randn(SIDE[device.type], SIDE[device.type], device=device).to(DTYPES[precision])
    product = torch.empty_like(matrix)
    operations = 2 * len(matrix) ** 3

    def multiply() -> object:
        return torch.mm(matrix, matrix, out=product)

    clock: Callable[..., timing.Timing] = timing.timed
    if device.type == "cuda":
        clock = timing.timed_on_gpu
        copy = timing.gpu_copy_bandwidth()
        pinned = torch.zeros(COPIED, dtype=torch.uint8, pin_memory=True)
        there = torch.empty_like(pinned, device=device)
        to_device = COPIED / clock(lambda: there.copy_(pinned, non_blocking=True)).seconds
    else:
        a, b = torch.from_numpy(source), torch.from_numpy(target)
        copy = 2 * COPIED / clock(lambda: b.copy_(a), seconds / 4).seconds
        to_device = None
    with _tf32(precision == "tf32"):
        matmul = operations / clock(multiply, seconds / 2).seconds
    return Ceilings(2 * COPIED / core, copy, to_device, matmul, precision)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
