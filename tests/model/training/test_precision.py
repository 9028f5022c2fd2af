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
    for of_gpus in ("fp16", "tf32"):
        with pytest.raises(ValueError, match=f"^--precision {of_gpus} is for GPUs; use bf16 or"):
            choose(of_gpus, CPU)


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


@pytest.fixture
def cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's default, during the test."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


@pytest.mark.usefixtures("cudnn")
def test_a_gpu_takes_bf16_if_nothing_else_is_asked_for() -> None:
    device = torch.device("cuda", 0)
    assert choose("auto", device).name == "bf16"
    assert choose("fp16", device).reason == "asked for"


@pytest.mark.usefixtures("cudnn")
def test_float32_convolutions_are_float32_unless_tf32_is_asked_for() -> None:
    for choice in ("float32", "tf32", "float32", "tf32", "bf16"):
        assert choose(choice, torch.device("cuda", 0)).name == choice
        assert torch.backends.cudnn.allow_tf32 == (choice == "tf32")
        assert (torch.backends.cudnn.conv.fp32_precision == "tf32") == (choice == "tf32")
    torch.backends.cudnn.allow_tf32 = True
    choose("float32", CPU)  # not a CPU's to decide
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.gpu
@pytest.mark.usefixtures("cudnn")
def test_tf32_rounds_and_float32_does_not() -> None:
    """Forward and backward of a convolution beside float64."""
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn((4, 64, 8, 28, 28), generator=generator, device="cuda")
    weight = torch.randn((64, 64, 3, 3, 3), generator=generator, device="cuda")

    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (x, weight)]
        out = torch.nn.functional.conv3d(*inputs, padding=1)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    exact = run(torch.float64)
    for choice, lowest, highest in (("float32", 0.0, 5e-5), ("tf32", 5e-5, 5e-3)):
        choose(choice, torch.device("cuda", 0))
        for found, right in zip(run(torch.float32), exact, strict=True):
            error = (found.double() - right).norm() / right.norm()
            assert lowest <= error < highest, choice
