"""Fixtures shared by all tests: real data, GPU expectations, caches out of the way."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.object_store"]  # its fixtures

# CuPy creates its cache folder on import, also where there is no GPU.
os.environ.setdefault("CUPY_CACHE_DIR", os.path.join(tempfile.gettempdir(), "sts-dali-cupy-cache"))
# Threads of torch that wait for each other do not spin: processes share the cores in a test run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Indexes of videos in read-only folders.
os.environ["XDG_CACHE_HOME"] = os.path.join(tempfile.gettempdir(), "sts-dali-cache")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real clips: videos/, frames/, golden/."""
    folder = os.environ.get("STS_TEST_DATA")
    if not folder:
        pytest.skip("set STS_TEST_DATA to a folder with videos/, frames/ and golden/")
    path = Path(folder).resolve()
    assert path.is_dir(), f"STS_TEST_DATA={folder} is not a folder"
    return path


@pytest.fixture(autouse=True)
def _ordinary_priority() -> Iterator[None]:
    """SVT-AV1's encoder makes its caller a real-time thread where that is allowed (as root).

    All processes started after it would be, too, and leave 5 % of the cores to anything else.
    """
    yield
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(autouse=True)
def _gpu(request: pytest.FixtureRequest) -> None:
    """Tests marked `gpu` skip without a GPU, and fail where one is expected."""
    if request.node.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("STS_EXPECT_GPU"):
            pytest.fail("STS_EXPECT_GPU is set, but torch sees no GPU")
        pytest.skip("needs an NVIDIA GPU")
