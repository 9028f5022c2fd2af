"""One owner at a time: a file that says who works in a folder, held for as long as that lasts."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Keep others out for whom the same file stands; `what` is at work here, for people.

    The system lets go of it however this process ends. Raises ValueError that names the owner if
    there is one. On a file system without locks it keeps nobody out.
    """
    with open(file, "a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = stream.readline().strip() or "unknown"
            raise ValueError(
                f"{file.parent}: another {what} works there ({owner}); wait for it, or stop it"
            ) from None
        except OSError:
            pass
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Wait until nobody holds the file, and hold it within. Where there are no locks, all go on."""
    with open(file, "w") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def held_if_free(file: Path) -> Iterator[bool]:
    """Whether nobody holds the file; then it is held within. Never on a file system without locks:
    there nobody can know."""
    with open(file, "a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except OSError:
            is_free = False
        yield is_free
