"""Which number format the network computes in, decided once and with its reason."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch.nn.grad import conv3d_weight

PRECISIONS = ("auto", "float32", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class Precision:
    """The format of the convolutions, and why. Weights and loss are float32 in any case."""

    name: str
    reason: str
    device_type: str

    @property
    def scaled(self) -> bool:
        """Whether gradients must be scaled into the format's range."""
        return self.name == "fp16"

    def autocast(self) -> AbstractContextManager[None]:
        """The context that the forward pass runs in."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)
        return torch.autocast(self.device_type, dtype=dtype, enabled=dtype is not None)


def choose(choice: str, device: torch.device) -> Precision:
    """The precision for `choice`, one of PRECISIONS; "auto": the fastest that gives right results.

    On a GPU this also tells cuDNN, for the whole process, whether float32 convolutions may round
    what they multiply to TF32, 10 bits of mantissa instead of 23: its own default is to do so.
    Raises ValueError if the device cannot do it.
    """
    if device.type == "cpu":
        return _choose_on_cpu(choice)
    torch.backends.cudnn.allow_tf32 = choice == "tf32"
    if choice == "auto":
        return Precision("bf16", "all GPUs since Ampere have it", device.type)
    return Precision(choice, "asked for", device.type)


def _choose_on_cpu(choice: str) -> Precision:
    """C3D forward and backward on an AMD EPYC with avx512_bf16, CPU seconds a clip:

        width   float32   bf16   bf16 with oneDNN kept from bf16 instructions: to AVX-512, to AVX2
        1        4.1 s    1.8 s   6.6 s
        0.25     0.75 s   0.7 s   0.8 s, 5.8 s (float32 0.75 s, 1.3 s)

    So bf16 pays with the instructions and costs without them.
    """
    if choice in ("fp16", "tf32"):
        raise ValueError(f"--precision {choice} is for GPUs; use bf16 or float32 on a CPU")
    if choice == "float32":
        return Precision(choice, "asked for", "cpu")
    found = [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]
    if choice == "auto" and not found:
        return Precision("float32", "the CPU has no bf16 instructions: bf16 is slower", "cpu")
    if _bf16_gradients_are_right():
        return Precision(
            "bf16", "asked for" if choice == "bf16" else f"the CPU has {found[0]}", "cpu"
        )
    wrong = f"torch {torch.__version__} gets bf16 gradients of 3D convolutions wrong on this CPU"
    if choice == "bf16":
        raise ValueError(f"{wrong}; use --precision float32")
    return Precision("float32", wrong, "cpu")


def _bf16_gradients_are_right() -> bool:
    """Try the weight gradient of a 3x3x3 convolution over two frames, C3D's last stage.

    oneDNN 3.12 (torch 2.13) adds what happens to lie in memory to it, hence the NaNs laid out.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight, gradient = (
        torch.randn(shape, generator=generator).bfloat16()
        for shape in ((2, 64, 2, 7, 7), (64, 64, 3, 3, 3), (2, 64, 2, 7, 7))
    )

    def weight_gradient(dtype: torch.dtype) -> torch.Tensor:
        return conv3d_weight(x.to(dtype), weight.shape, gradient.to(dtype), padding=1)

    right = weight_gradient(torch.float32)
    for _ in range(8):
        litter = [torch.full((1 << 18,), float("nan")) for _ in range(4)]
        del litter
        error = (weight_gradient(torch.bfloat16).float() - right).abs().max() / right.abs().max()
        if not error < 0.02:  # rounding alone: 0.003
            return False
    return True
