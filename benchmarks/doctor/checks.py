"""All checks in their order, and the facts that they are about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.doctor.machine import Limits
from benchmarks.doctor.software import Nvidia, Torch

_FLOW_LIBRARY = "libnvidia-opticalflow.so.1"


@dataclass(frozen=True)
class Facts:
    """What other checks build on. None: it could not be found out."""

    nvidia: Nvidia = field(default_factory=Nvidia)
    torch: Torch | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    limits: Limits | None = None

    @property
    def gpu(self) -> bool:
        """Whether training takes a GPU."""
        return self.torch is not None and bool(self.torch.gpus)


@dataclass(frozen=True)
class Check:
    """A line of the output: who finds out, with what, within how many seconds."""

    name: str
    work: str  # "module:function" of this package; gives a Finding
    arguments: tuple[Any, ...] = ()
    applies: bool = True  # else there is no GPU for it
    seconds: float = 30.0


def checks(facts: Facts, videos: Path | None) -> list[Check]:
    """Those of this machine; of what could not be found out, nothing more is asked."""
    gpu, nvidia = facts.gpu, bool(facts.nvidia.gpus)
    device = "cuda" if gpu else "cpu"
    capability = facts.torch.gpus[0][1] if facts.torch and gpu else None
    torch, limits = (facts.torch,), (facts.limits,)
    workers = facts.limits.may_compute if facts.limits else 2
    # Loops are compiled by whoever is first, once on a machine: some 10 s for labels and for flow.
    slow = 70.0
    listed = [
        Check("driver", "software:driver", (facts.nvidia,)),
        Check("python", "software:python"),
        Check("packages", "software:packages", (facts.packages,)),
        *([Check("torch", "software:torch_fits", (facts.nvidia, *torch))] if facts.torch else []),
        Check("DALI", "software:dali_fits", (facts.nvidia, facts.packages)),
        Check("CuPy", "software:cupy_fits", (facts.nvidia, facts.packages, *torch), nvidia),
        Check("GPU", "software:gpu", torch, gpu),
        Check("NVRTC", "software:nvrtc", (capability,), gpu),
        Check("libnvcuvid", "libraries:of_driver", ("libnvcuvid.so.1",), nvidia),
        Check("libnvidia-opticalflow", "libraries:of_driver", (_FLOW_LIBRARY,), nvidia),
        Check("nvJPEG", "libraries:nvjpeg", (), gpu),
        *(
            [
                Check("cores", "machine:cores", limits),
                Check("threads", "machine:threads", limits),
                Check("memory", "machine:memory", limits),
            ]
            if facts.limits
            else []
        ),
        Check("/dev/shm", "machine:shared_memory", (device,)),
        Check("open files", "machine:open_files", (workers,)),
        Check("cache folder", "machine:cache"),
        Check("this folder", "machine:output"),
        Check("g++", "machine:compiler"),
        Check("FFmpeg codecs", "decoding:on_cpu", (), seconds=slow),
        Check("NVDEC codecs", "decoding:on_gpu", (), gpu, slow),
        Check("labels", "results:labels", (gpu,), seconds=slow),
        Check("TV-L1", "results:tvl1", (gpu,), seconds=slow),
        Check("hardware flow", "results:hardware_flow", (), gpu),
        Check("loader", "results:loader", (gpu,), seconds=slow),
        Check("precision", "results:precision", (gpu,)),
        Check("training", "results:training", (gpu,), seconds=slow),
    ]
    if videos is not None:
        listed += [
            Check("videos: disk", "videos:disk", (videos,)),
            Check("videos: index", "videos:index", (videos,)),
            Check("videos: batch", "videos:batch", (videos, gpu), seconds=slow),
        ]
    return listed
