"""How worker processes start: without the main module, and deaf to Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker, spawn
from threading import Lock, get_ident
from typing import Any

_one_at_a_time = Lock()


@contextmanager
def quiet_children(main: bool) -> Iterator[None]:
    """How processes start that this thread starts within.

    They ignore Ctrl-C from their first moment on: whoever loads decides what it means. Unless
    `main`, they do not import the main module: a training script would import torch in every
    worker, and a script without `if __name__ == "__main__"` would start itself without end.
    """
    us, described = get_ident(), spawn.get_preparation_data

    def without_main(name: str) -> dict[str, Any]:
        kept = described(name).items()
        ours = get_ident() == us
        return {key: value for key, value in kept if not (ours and key.startswith("init_main"))}

    with _one_at_a_time:
        resource_tracker.ensure_running()  # whoever starts it hears of Ctrl-C again (Python 3.11)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            if not main:
                spawn.get_preparation_data = without_main
            yield
        finally:
            spawn.get_preparation_data = described
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
