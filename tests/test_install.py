"""The pins of the extras beside what torch asks for, whatever CUDA it is for: pip finds a way."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# What wheels of torch 2.13.0 require: that of PyPI, for CUDA 13.0, and that for CUDA 12.6.
TORCH_BRINGS = {
    "13": {"cuda-bindings": ["13.0.3", "13.5.0"], "nvidia-cuda-nvrtc": ["13.0.88"]},
    "12": {"cuda-bindings": ["12.9.4", "12.9.10"], "nvidia-cuda-nvrtc-cu12": ["12.6.77"]},
}


@pytest.mark.parametrize(
    ("extra", "cuda"), [("cpu", "13"), ("cuda12", "13"), ("cuda12", "12"), ("cuda13", "13")]
)
def test_what_torch_brings_satisfies_the_extra(extra: str, cuda: str) -> None:
    wanted = {one.name: one.specifier for one in map(Requirement, EXTRAS[extra])}
    assert "cuda-bindings" in wanted, "the kernels are compiled through it"
    brings = {name: some for name, some in TORCH_BRINGS[cuda].items() if name in wanted}
    for name, versions in brings.items():
        assert any(wanted[name].contains(version) for version in versions), name


def test_make_installs_the_torch_of_the_readme() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    (version,) = re.findall(r"^TORCH +:= (torch==\S+)$", makefile, re.MULTILINE)
    assert f"pip install {version}\n" in readme


def test_make_says_that_torch_cannot_use_the_gpu_before_it_installs_the_rest() -> None:
    done = subprocess.run(
        ["make", "-n", "venv", "EXTRA=cuda12", "VENV=/no/such/place"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    torch, check, rest = (
        done.stdout.index(words)
        for words in ("pip install --quiet  torch==", "cannot use the GPU", "[cuda12,test]")
    )
    assert torch < check < rest
