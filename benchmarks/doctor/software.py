"""Driver, CUDA, torch, DALI, CuPy and the compiler of kernels: there, and do they fit?"""

import platform
import re
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.doctor.finding import Finding, bad, ok, warning
from kernels.gpu import check_gpu

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
DALI = {"nvidia-dali-cuda120": 12, "nvidia-dali-cuda130": 13}  # CUDA version that each is for
CUPY = {"cupy-cuda12x": 12, "cupy-cuda13x": 13}
NO_GPU = "no NVIDIA GPU: CPU default"
SMI_SECONDS = 20
ON_CPU = "or compute on the CPU: --device cpu"


@dataclass(frozen=True)
class Nvidia:
    """What the driver says."""

    driver: str = ""  # version; empty: it says nothing
    cuda: tuple[int, int] = (0, 0)  # the newest that it runs
    gpus: tuple[str, ...] = ()  # names
    trouble: str = ""  # why it says nothing, though something of NVIDIA's is there


@dataclass(frozen=True)
class Torch:
    """What torch says, once imported."""

    version: str
    cuda: str | None  # that it is built for
    gpus: tuple[tuple[str, tuple[int, int], int], ...] = ()  # name, compute capability, bytes
    trouble: str = ""  # why it sees no GPU, where it is built for one


# ---- what is there ----------------------------------------------------------------------------


def nvidia() -> Nvidia:
    """Ask nvidia-smi."""
    try:
        overview = _smi()
        listed = _smi("--query-gpu=name,driver_version", "--format=csv,noheader")
    except FileNotFoundError:
        return Nvidia(trouble=_traces())
    except subprocess.TimeoutExpired:
        return Nvidia(trouble=f"nvidia-smi gives no answer for {SMI_SECONDS} s")
    except subprocess.CalledProcessError as error:
        said = (error.stdout + error.stderr).strip().splitlines()
        return Nvidia(trouble=f"nvidia-smi: {said[0] if said else error}")
    gpus = [line.rsplit(", ", 1) for line in listed.splitlines() if ", " in line]
    version = re.search(r"CUDA[\w ]*Version: *(\d+)\.(\d+)", overview)
    if not gpus or not version:
        return Nvidia(trouble="nvidia-smi runs and lists no GPU with a CUDA version")
    return Nvidia(
        gpus[0][1], (int(version[1]), int(version[2])), tuple(name for name, _ in gpus)
    )  # fmt: skip


def _smi(*arguments: str) -> str:
    return subprocess.run(
        ["nvidia-smi", *arguments], capture_output=True, text=True, check=True, timeout=SMI_SECONDS
    ).stdout


def _traces(root: Path = Path("/")) -> str:
    """What of NVIDIA's is there all the same, where nvidia-smi is not; "" if nothing."""
    for place in ("proc/driver/nvidia/version", "dev/nvidia0"):
        if (root / place).exists():
            return f"there is /{place}, but no nvidia-smi"
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):  # NVIDIA; shows or computes pictures
            return f"there is an NVIDIA card (PCI {device.name}), but no driver"
    return ""


def torch() -> Torch:
    """Import torch and ask it. Raises what the import raises."""
    import torch

    if not torch.version.cuda:
        return Torch(torch.__version__, None)
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return Torch(torch.__version__, torch.version.cuda, trouble=str(error).splitlines()[0])
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    gpus = tuple((gpu.name, (gpu.major, gpu.minor), gpu.total_memory) for gpu in found)
    return Torch(torch.__version__, torch.version.cuda, gpus)


def installed() -> dict[str, str]:
    """Names of packages, in lower case, and their versions."""
    return {
        one.metadata["Name"].lower().replace("_", "-"): one.version
        for one in metadata.distributions()
        if one.metadata["Name"]
    }


# ---- does it fit ------------------------------------------------------------------------------


def python(version: str = platform.python_version()) -> Finding:
    least = _project()["requires-python"]
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(least).contains(version):
        return ok(version)
    return bad(f"{version}, {least} is needed", "make PYTHON=python3.12 venv")


def packages(found: Mapping[str, str]) -> Finding:
    """The pins of pyproject.toml, without extras."""
    from packaging.requirements import Requirement

    pins = [Requirement(text) for text in _project()["dependencies"]]
    missing = [pin.name for pin in pins if pin.name not in found]
    if missing:
        return bad(f"not installed: {', '.join(missing)}", "make venv")
    others = [
        f"{pin.name} {found[pin.name]} ({pin.specifier})"
        for pin in pins
        if not pin.specifier.contains(found[pin.name], prereleases=True)
    ]
    if others:
        return warning(
            f"not the versions that were tested: {', '.join(others)}",
            "make venv, or pip install --editable '.[EXTRA]' with the extra of this machine",
        )
    return ok(f"{len(pins)} as pinned")


def driver(found: Nvidia) -> Finding:
    if found.driver:
        cuda = ".".join(map(str, found.cuda))
        remedy = f"a driver for CUDA 12 or newer, {ON_CPU}"
        said = f"{found.driver}, runs CUDA {cuda}, {len(found.gpus)} x {found.gpus[0]}"
        return ok(said) if found.cuda >= (12, 0) else bad(said, remedy)
    if not found.trouble:
        return ok(NO_GPU)
    remedy = (
        "install or restart NVIDIA's driver (580 or newer for CUDA 13); in a container: "
        f"docker run --gpus all; {ON_CPU}"
    )
    if "no driver" in found.trouble:  # a CPU's training is not touched by a card
        return warning(found.trouble, remedy)
    return bad(found.trouble, remedy)


def torch_fits(found: Nvidia, build: Torch) -> Finding:
    said = f"{build.version}, " + (f"for CUDA {build.cuda}" if build.cuda else "for CPUs")
    if not found.gpus:
        return ok(said)
    cuda12 = "make venv EXTRA=cuda12 TORCH_INDEX=URL (README, Installing)"
    if build.cuda is None:
        return bad(
            f"{said}: it cannot use the GPU",
            "make venv" if found.cuda[0] > 12 else cuda12,
        )
    major = int(build.cuda.split(".")[0])
    if major > found.cuda[0]:
        runs = ".".join(map(str, found.cuda))
        return bad(f"{said}; the driver runs CUDA {runs}", f"a newer driver, or {cuda12}")
    if not build.gpus:
        trouble = build.trouble or "it says not why"
        return bad(
            f"{said}, sees no GPU: {trouble}",
            "restart the driver or the machine; is CUDA_VISIBLE_DEVICES set to what is there?",
        )
    return ok(said)


def dali_fits(found: Nvidia, packages: Mapping[str, str]) -> Finding:
    there = [name for name in DALI if name in packages]
    extra = _extra(found)
    if len(there) != 1:
        said = " and ".join(there) or "none is installed"
        but = ": the two cannot live together" if there else ""
        return bad(said + but, f"remove the environment, then {extra}")
    (name,) = there
    said = f"{name} {packages[name]}"
    if found.gpus and DALI[name] > found.cuda[0]:
        return bad(f"{said}, but the driver runs CUDA {found.cuda[0]}", extra)
    if found.gpus and DALI[name] < _wanted(found):
        return warning(f"{said}: runs on this driver, but was not tested so", extra)
    return ok(said)


def cupy_fits(found: Nvidia, packages: Mapping[str, str], build: Torch) -> Finding:
    """CuPy has to be for the CUDA version that torch is for: both are in one process."""
    there = [name for name in (*CUPY, "cupy") if name in packages]
    extra = _extra(found)
    if len(there) != 1:
        said = " and ".join(there) or "none is installed"
        return bad(f"{said}; one is needed", f"remove the environment, then {extra}")
    (name,) = there
    said = f"{name} {packages[name]}"
    if build.cuda and CUPY.get(name, 0) not in (0, int(build.cuda.split(".")[0])):
        return bad(f"{said} beside a torch for CUDA {build.cuda}", extra)
    return ok(said)


def gpu(build: Torch) -> Finding:
    """Compute capability of all that torch sees."""
    try:
        for name, capability, _ in build.gpus:
            check_gpu(name, capability)
    except ValueError as error:
        return bad(str(error), "--device cpu, or --gpu N for another GPU")
    return ok(
        ", ".join(
            f"{name}: compute capability {major}.{minor}, {memory / 2**30:.0f} GiB"
            for name, (major, minor), memory in build.gpus
        )
    )


def nvrtc(capability: tuple[int, int]) -> Finding:
    """Compile the kernels for a GPU, in memory: NVRTC must know it."""
    from kernels import nvrtc
    from kernels.cuda_module import source
    from kernels.labels.launches import MOTION_FILES, defines

    remedy = "make venv: the extra for the driver's CUDA brings a newer NVRTC"
    try:
        architecture = nvrtc.architecture(capability)
        nvrtc.compiled(source(MOTION_FILES, defines(112, "corrected")), architecture)
    except (ImportError, RuntimeError, ValueError) as error:
        return bad(str(error).splitlines()[0], remedy)
    return ok(f"compiles for {architecture}")


def _wanted(found: Nvidia) -> int:
    """The CUDA version whose extra `make` takes."""
    return 13 if found.cuda[0] >= 13 else 12


def _extra(found: Nvidia) -> str:
    return f"make venv EXTRA=cuda{_wanted(found)}" if found.gpus else "make venv EXTRA=cpu"


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(PROJECT.read_text())["project"]
    return project
