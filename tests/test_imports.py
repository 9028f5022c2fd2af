"""Every module imports without a GPU's packages, and rooms without what they need not know."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("kernels", "dali_pipes", "model", "benchmarks")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in [*ROOT.glob("train.py"), *(p for f in FOLDERS for p in ROOT.glob(f"{f}/**/*.py"))]
)
# Rooms that stay light: what they must do without. Decoding workers unpickle a fetch, which brings
# the other modules with it.
WITHOUT = {
    "dali_pipes.pipelines.fetch": {"torch"},
    "dali_pipes.prepare.samples": {"torch"},
    "dali_pipes.sources": {"torch", "numba", "nvidia"},
    "dali_pipes.decoding.encoded": {"torch", "numba", "nvidia", "dali_pipes.sources"},
    "dali_pipes.clips": {"torch", "numba", "nvidia", "cv2"},
    "kernels.labels.schema": {"torch", "numba"},
    "kernels.labels.partitions": {"torch", "numba"},
    "kernels.flow.code": {"torch", "numba", "kernels.labels"},
    "model.networks.published": {"model.training", "model.evaluation", "dali_pipes", "sklearn"},
    "model.training.loss": {"model.evaluation", "dali_pipes", "sklearn"},
}

# Importing any of these fails, as on a machine that does not have them.
BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(f"{{name}}.".startswith(f"{{blocked}}.") for blocked in {blocked!r}):
            raise ImportError(f"{{name}} was imported at the top of a module")
sys.meta_path.insert(0, Absent())
"""


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_modules_import_without_a_gpu() -> None:
    assert len(MODULES) > 10
    blocked = {"cupy", "cuda", "nvidia"}
    run(
        BLOCK.format(blocked=blocked) + "import importlib\n"
        f"for name in {MODULES!r}: importlib.import_module(name)"
    )


@pytest.mark.parametrize("module", WITHOUT)
def test_light_modules_import_without_what_is_heavy(module: str) -> None:
    run(BLOCK.format(blocked=WITHOUT[module]) + f"import {module}")
