"""Copies on this machine of files that an address has: made once, shared by all its processes."""

import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

from tqdm import tqdm

from dali_pipes.lock import held
from dali_pipes.storage.files import NotFetched
from dali_pipes.storage.remote import RemoteFiles, Version
from kernels.cache import cache_folder

_SHOWN = 2**26  # bytes: of longer copies people see how far they are


def version_key(place: str, name: str, version: Version) -> str:
    """A name for this content of this file."""
    text = "\n".join((place, name, str(version.size), version.tag))
    return blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()


def local_copy(
    files: RemoteFiles, name: str, cache: Path | None, is_whole: Callable[[Path], bool]
) -> Path | None:
    """A copy of the file as it is there now; None if there is no such file.

    cache: a folder for it; None: the user's.
    is_whole: what a copy has to pass; one that does not is made once more.
    Raises ValueError that says what is wrong.
    """
    folder = (cache or cache_folder()) / "copies"
    try:
        version = files.version(name)
        copy = folder / f"{version_key(files.place, name, version)}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / f".{copy.name}.lock"):
            # Without a tag, a copy of the same length may be of other content.
            if not (version.tag and copy.is_file()):
                for _ in range(2):
                    _download(files, name, version, copy)
                    if is_whole(copy):
                        return copy
                copy.unlink()
                raise ValueError(f"{files.place}/{name}: is damaged")
        return copy
    except FileNotFoundError as error:
        if error.filename is None:
            return None
        raise ValueError(f"{folder}: cannot be written: {error.strerror}") from error
    except NotFetched as error:
        raise ValueError(f"{files.place}/{name}: {error.strerror}") from error
    except OSError as error:
        raise ValueError(
            f"{folder}: no copy of {name} can be kept there ({error.strerror}); name another "
            "folder (--cache)"
        ) from error


def _download(files: RemoteFiles, name: str, version: Version, copy: Path) -> None:
    part = copy.with_name(f".{uuid4().hex}.part")
    hidden = version.size < _SHOWN or not sys.stderr.isatty()
    try:
        with tqdm(total=version.size, desc=name, unit="B", unit_scale=True, disable=hidden) as bar:
            files.download(name, version, part, bar.update)
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)
