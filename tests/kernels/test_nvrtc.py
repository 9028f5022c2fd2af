"""Machine code for a GPU: which one it is made for, where it is kept, that it is what is tested."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cuda.bindings import nvrtc as bindings

from kernels import cuda_module, nvrtc
from tests.cuda_on_cpu import CpuDevice
from tests.cuda_on_cpu.cases import CASES
from tests.cuda_on_cpu.compiled import compile_for

ROOT = Path(__file__).parents[2]
TEXT = 'extern "C" __global__ void add(int* sum) { *sum += 1; }'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no memory of what this process has compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nvrtc.compiled.cache_clear()
    return tmp_path / "cache" / "sts-dali"


def never(*_: object) -> None:
    raise AssertionError("compiled again")


@pytest.mark.parametrize(
    ("known", "capability", "made_for"),
    [
        ([75, 80, 86, 87, 89, 90], (8, 0), "sm_80"),
        ([75, 80, 86, 87, 89, 90], (8, 9), "sm_89"),
        ([75, 80, 90], (8, 9), "sm_80"),  # runs on all of its major version from there on
        ([75, 80, 86, 89, 90, 100, 120], (9, 0), "sm_90"),
        ([90, 100, 103, 120, 121], (10, 3), "sm_103"),
        ([90, 100, 103, 120, 121], (12, 0), "sm_120"),
    ],
)
def test_architecture_is_the_newest_that_the_gpu_runs(
    monkeypatch: pytest.MonkeyPatch, known: list[int], capability: tuple[int, int], made_for: str
) -> None:
    monkeypatch.setattr(bindings, "nvrtcGetSupportedArchs", lambda: (None, known))
    assert nvrtc.architecture(capability) == made_for


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0)])
def test_this_nvrtc_compiles_for_what_it_is_said_to(capability: tuple[int, int]) -> None:
    made_for = nvrtc.architecture(capability)
    assert f".target {made_for}" in nvrtc.compiled(TEXT, made_for).ptx


def test_a_gpu_newer_than_nvrtc_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "nvrtcGetSupportedArchs", lambda: (None, [80, 90]))
    monkeypatch.setattr(bindings, "nvrtcVersion", lambda: (None, 12, 6))
    with pytest.raises(RuntimeError, match=r"^NVRTC 12\.6 .* capability 10\.3: install the extra"):
        nvrtc.architecture((10, 3))


def test_what_does_not_compile_shows_the_log(cache: Path) -> None:
    with pytest.raises(RuntimeError, match=r'kernels/a\.cu\(1\): error: identifier "nothing"'):
        nvrtc.cubin_file('#line 1 "kernels/a.cu"\n__global__ void add() { nothing; }', "sm_90")
    assert not cache.exists()


def test_the_second_time_nothing_is_compiled(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = nvrtc.cubin_file(TEXT, "sm_90")
    assert first.read_bytes() == nvrtc.compiled(TEXT, "sm_90").cubin
    assert first.read_bytes().startswith(b"\x7fELF")
    assert [first] == list(cache.iterdir())  # nothing half written is left
    monkeypatch.setattr(nvrtc, "compiled", never)
    assert nvrtc.cubin_file(TEXT, "sm_90") == first


def test_another_text_gpu_option_or_nvrtc_has_another_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [nvrtc.cubin_file(TEXT, "sm_90"), nvrtc.cubin_file(TEXT, "sm_80")]
    files.append(nvrtc.cubin_file(TEXT.replace("1", "2"), "sm_90"))
    with monkeypatch.context() as other:
        other.setattr(nvrtc, "OPTIONS", (*nvrtc.OPTIONS, "--use_fast_math"))
        files.append(nvrtc.cubin_file(TEXT, "sm_90"))
    monkeypatch.setattr(bindings, "nvrtcVersion", lambda: (None, 99, 0))
    files.append(nvrtc.cubin_file(TEXT, "sm_90"))
    assert len(set(files)) == len(files) == len(list(cache.iterdir()))


def test_a_changed_kernel_is_compiled_anew(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_module, "FOLDER", tmp_path)
    kernel = tmp_path / "add.cu"
    kernel.write_text(TEXT)
    before = nvrtc.cubin_file(cuda_module.source(["add.cu"]), "sm_90")
    kernel.write_text(TEXT.replace("1", "2"))
    after = nvrtc.cubin_file(cuda_module.source(["add.cu"]), "sm_90")
    assert before.read_bytes() != after.read_bytes()


def test_without_a_cache_the_file_goes_with_the_process(tmp_path: Path) -> None:
    """The folder for caches is a file, which nobody can write below, root neither."""
    (tmp_path / "cache").touch()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from kernels import nvrtc\n"
            f"one, two = nvrtc.cubin_file({TEXT!r}, 'sm_90'), nvrtc.cubin_file({TEXT!r}, 'sm_90')\n"
            "assert one == two and one.read_bytes().startswith(b'\\x7fELF')\n"
            "print(one)",
        ],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.parent.parent == tmp_path
    assert [left.name for left in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("name", CASES)
def test_what_a_gpu_loads_is_what_the_tests_examine(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy gets a file of machine code, so that no options of its own can take part."""
    device = CpuDevice()
    CASES[name].run(device)
    loaded: list[Path] = []
    cupy = SimpleNamespace(RawModule=lambda path: loaded.append(Path(path)))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    compile_for.cache_clear()
    for launch in device.launches:
        cuda_module._module.__wrapped__(launch.files, launch.defines, 0)
        compile_for("sm_90", launch.files, launch.defines)
        text = cuda_module.source(launch.files, launch.defines)
        assert loaded[-1].read_bytes() == nvrtc.compiled(text, "sm_90").cubin
    assert nvrtc.compiled.cache_info().misses == len(set(loaded))
