"""Every module imports without a GPU's packages, and decoding workers stay free of torch."""

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
# Decoding workers unpickle a fetch, which brings the other modules with it.
WORKER_MODULES = ("dali_pipes.fetch", "dali_pipes.prepare.samples")

# Importing any of these fails, as on a machine that does not have them.
BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
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


@pytest.mark.parametrize("module", WORKER_MODULES)
def test_worker_modules_import_without_torch(module: str) -> None:
    run(BLOCK.format(blocked={"torch"}) + f"import {module}")
