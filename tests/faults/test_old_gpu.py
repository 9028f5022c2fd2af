"""A GPU that is too old for the kernels: one line with the remedy, at every way in."""

from collections.abc import Callable

import pytest
import torch

import train
from dali_pipes import ClipLoader
from dali_pipes.prepare import compute
from dali_pipes.prepare.work import BadInput
from dali_pipes.sources import Synthetic
from kernels import nvrtc
from kernels.gpu import check_gpu

TOO_OLD = r"^Tesla T4 has compute capability 7\.5, 8\.0 \(Ampere\) .* CPU \(--device cpu\)$"
Pretend = Callable[[str, tuple[int, int]], None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Let torch tell of one GPU, as far as anybody asks before it is used."""

    def pretend(name: str, capability: tuple[int, int]) -> None:
        told = {
            "is_available": True,
            "device_count": 1,
            "current_device": 0,
            "set_device": None,
            "get_device_name": name,
            "get_device_capability": capability,
        }
        for function, value in told.items():
            monkeypatch.setattr(torch.cuda, function, lambda *_, value=value: value)

    return pretend


@pytest.mark.parametrize("capability", [(5, 2), (7, 0), (7, 5)])
def test_older_than_ampere_is_refused(capability: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"8\.0 .Ampere. is the least"):
        check_gpu("a GPU", capability)


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_newer_ones_are_taken(capability: tuple[int, int]) -> None:
    check_gpu("a GPU", capability)


def test_loader_and_kernels_say_so(pretend: Pretend) -> None:
    pretend("Tesla T4", (7, 5))
    source = Synthetic.make(2, 16, (48, 64))
    for device in (None, "cuda", "cuda:0"):
        with pytest.raises(ValueError, match=TOO_OLD):
            ClipLoader(source, device=device)
    with pytest.raises(ValueError, match=r"^the GPU has compute capability 7\.5"):
        nvrtc.architecture((7, 5))
    assert ClipLoader(source, device="cpu", num_workers=0).device.type == "cpu"


def test_commands_end_with_that_line(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend("Tesla T4", (7, 5))
    monkeypatch.setattr(train, "open_source", lambda *_: Synthetic.make(2, 16, (48, 64)))
    for device in ("auto", "cuda"):
        assert train.main(["--videos", "any", "--width", "0.05", "--device", device]) == 2
        error = capsys.readouterr().err
        assert error.startswith("train.py: Tesla T4 has compute capability 7.5")
        assert error.count("\n") == 1
    with pytest.raises(BadInput, match=TOO_OLD):
        compute.tvl1_device("auto")
    assert compute.tvl1_device("cpu")[0] == "cpu"
