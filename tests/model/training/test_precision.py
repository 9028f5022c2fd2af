"""The choice of a number format, and that what is chosen on this machine gives right gradients."""

import pytest
import torch

from model.networks.c3d import C3D
from model.training import precision
from model.training.precision import choose

CPU = torch.device("cpu")


def instructions(monkeypatch: pytest.MonkeyPatch, right: bool, **found: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(precision, "_bf16_gradients_are_right", lambda: right)


def test_a_cpu_needs_instructions_and_right_results_for_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instructions(monkeypatch, right=True, avx512_bf16=True)
    assert (choose("auto", CPU).name, choose("auto", CPU).reason) == (
        "bf16",
        "the CPU has avx512_bf16",
    )
    instructions(monkeypatch, right=True, avx512_bf16=False)
    assert choose("auto", CPU).name == "float32"
    assert choose("bf16", CPU).name == "bf16"
    instructions(monkeypatch, right=False, amx_bf16=True)
    assert choose("auto", CPU).name == "float32"
    assert "wrong" in choose("auto", CPU).reason
    with pytest.raises(ValueError, match="use --precision float32"):
        choose("bf16", CPU)
    assert choose("float32", CPU).reason == "asked for"
    with pytest.raises(ValueError, match="fp16 is for GPUs"):
        choose("fp16", CPU)


def test_the_choice_for_this_cpu_gives_the_gradients_of_float64() -> None:
    chosen = choose("auto", CPU)
    torch.manual_seed(0)
    backbone = C3D(width=0.1).eval()
    frames = torch.randint(0, 256, (2, 16, 32, 32, 3), dtype=torch.uint8)

    def gradients(dtype: torch.dtype) -> torch.Tensor:
        backbone.to(dtype).zero_grad()
        with chosen.autocast() if dtype == torch.float32 else torch.enable_grad():
            features = backbone.features(frames)
        features.double().square().mean().backward()
        return torch.cat(
            [p.grad.flatten().double() for p in backbone.parameters() if p.grad is not None]
        )

    torch.full((1 << 20,), float("nan"))  # what uninitialised memory may hold
    actual, expected = gradients(torch.float32), gradients(torch.float64)
    tolerance = 0.05 if chosen.name == "bf16" else 1e-4
    assert (actual - expected).norm() < tolerance * expected.norm()


def test_a_gpu_takes_bf16_if_nothing_else_is_asked_for() -> None:
    device = torch.device("cuda", 0)
    assert choose("auto", device).name == "bf16"
    assert choose("fp16", device).reason == "asked for"
