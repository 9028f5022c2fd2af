"""The least GPU that the kernels run on."""

# Ampere: sums over a warp in one instruction, and more than 64 KiB of shared memory for a block.
LEAST_CAPABILITY = (8, 0)


def check_gpu(name: str, capability: tuple[int, int]) -> None:
    """Raise ValueError, with the remedy, if a GPU of this compute capability is too old."""
    if capability < LEAST_CAPABILITY:
        major, minor = capability
        raise ValueError(
            f"{name} has compute capability {major}.{minor}, 8.0 (Ampere) is the least: "
            "compute on the CPU (--device cpu)"
        )
