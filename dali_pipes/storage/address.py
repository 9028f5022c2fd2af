"""Addresses of prepared data: s3://bucket/prefix, gs://, https:// and whatever else fsspec knows.

They hold no credentials: those come from the environment, and never reach a log or a message.
"""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL|_SAS", re.IGNORECASE)
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")  # of an address: signatures go there
_USER = re.compile(r"://[^\s/]*@")
_HOST = re.compile(r"([\w.-]*|\[[\da-fA-F:.]+\])(:\d*)?")
_LEAST_SECRET = 6  # characters; what is shorter would blot out words


def is_address(place: Path | str) -> bool:
    """Whether this is an address and no path of a file system."""
    return isinstance(place, str) and _SCHEME.match(place) is not None


def place(text: str) -> Path | str:
    """A flag's value: an address, or the path of a folder."""
    return text if is_address(text) else Path(text)


def whole_path(path: str) -> str:
    """The same from wherever it is named: an absolute path, or an address."""
    return path if is_address(path) else os.path.abspath(path)


def checked_address(address: str) -> str:
    """The address without a slash at its end. Raises ValueError if it holds more than a place."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    plain = _HOST.fullmatch(host) is not None  # else a password ended it: "/", "?", "#"
    if not plain or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            f"{parts.scheme}://{host + parts.path if plain else '...'}: has a user, a query "
            "or a fragment in it; give the address alone, credentials belong in the environment"
        )
    return address.rstrip("/")


def parents(address: str) -> list[str]:
    """The addresses that an address lies in, the nearest first."""
    scheme, _, rest = address.partition("://")
    steps = rest.rstrip("/").split("/")
    return [f"{scheme}://{'/'.join(steps[:n])}" for n in range(len(steps) - 1, 0, -1)]


def without_secrets(text: str) -> str:
    """Text of a library's error on one line, without credentials of the environment or addresses'
    queries and users."""
    text = " ".join(text.split())
    for name, value in sorted(os.environ.items(), key=lambda one: -len(one[1])):
        if len(value) >= _LEAST_SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return _USER.sub("://***@", _QUERY.sub(r"\1?***", text))
