"""Where a preparing command computes TV-L1 flow of native frames, and computing it."""

import argparse
import os
import threading
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dali_pipes.flow import tvl1_flow
from dali_pipes.prepare.work import BadInput
from kernels.flow.code import encode
from kernels.gpu import check_gpu

# What an interruption can cost each worker; with TV-L1 on a CPU 16 pairs take some 2 s.
PAIRS_AT_ONCE = {"cpu": 16, "cuda": 64}

_one_at_a_time = threading.Lock()  # on the GPU: threads read and write images meanwhile


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """The flag --device of `flow` and `reels`."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="for tvl1: the CPU or the GPU; auto takes a GPU if there is one",
    )  # fmt: skip


def tvl1_device(asked: str) -> tuple[str, str]:
    """("cpu" or "cuda", what that means). Raises BadInput if it is not there or too old."""
    if asked != "cpu":
        import torch  # here: worker processes do without

        if torch.cuda.is_available():
            try:
                check_gpu(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
            except ValueError as error:
                raise BadInput(str(error)) from error
            return "cuda", "TV-L1 on the GPU"
        if asked == "cuda":
            raise BadInput("--device cuda, but torch finds no GPU; see `nvidia-smi`")
    reason = "asked for" if asked == "cpu" else "no GPU found"
    return "cpu", f"TV-L1 on the CPU ({reason}), some 0.1 s for a pair of frames on each core"


def coded_tvl1(frames: NDArray[np.uint8], device: str) -> NDArray[np.uint8]:
    """uint8 RGB [T,H,W,3] at `flow_size` -> uint8 coded TV-L1 flow [T-1,H,W,2], as published."""
    return encode(_tvl1_on_gpu(frames) if device == "cuda" else tvl1_flow(frames))


def _tvl1_on_gpu(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    import torch

    from kernels.flow import cuda as cuda_flow

    gpu = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    with _one_at_a_time, torch.cuda.device(gpu):
        flow = cuda_flow.tvl1_flow(torch.from_numpy(frames)[None].to(gpu))
        return cast("NDArray[np.float32]", flow[0].cpu().numpy())
