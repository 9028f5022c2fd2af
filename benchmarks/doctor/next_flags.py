"""The flags to try first on this machine: `--tune` measures from there."""

import shlex

from benchmarks.doctor.machine import BATCHES
from dali_pipes.decoding.opening import printable


def commands(
    videos: str, gpus: int, cores: int, free_shared: int, bytes_a_clip: int
) -> tuple[str, str]:
    """(what tunes, what trains). `cores`: to share among `gpus`, or of the CPU that trains.

    `free_shared`: bytes of shared memory, `bytes_a_clip`: of batches under way, for each clip.
    """
    where = f"--videos {shlex.quote(printable(videos))}"
    network = "" if gpus else " --width 0.25"
    most = free_shared // max(1, bytes_a_clip)  # clips
    batch = BATCHES["published" if gpus else "default"]
    batch, workers = (min(batch, most), max(1, cores // max(1, gpus))) if most else (batch, 0)
    threads = f" --decode_threads {_decode_threads()}" if gpus else ""
    program = f"torchrun --nproc-per-node={gpus}" if gpus > 1 else "python"
    return (
        f"python -m benchmarks --tune {where}{network}",
        f"{program} train.py {where} --num_workers {workers} --bs {batch}{network}{threads}",
    )


def _decode_threads() -> int:
    from dali_pipes.pipelines.nvdec import DECODE_THREADS

    return DECODE_THREADS
