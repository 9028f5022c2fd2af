"""Byte ranges by plain HTTP, from URLs that the store's own library has signed.

The libraries of stores take some 2 ms of a core for each request, a plain one takes 0.5. Where it
cannot be done (nothing to sign with, a way that the library alone knows), the library reads. The
URLs are secrets: no error that leaves here has one, nor a cause that has.
"""

import threading
import time
from typing import Any

_VALID_SECONDS, _USED_SECONDS = 900, 600  # of a URL
_ATTEMPTS = 3  # without an answer, after which the library is asked
_REFUSED = (400, 401, 403)


class PlainError(OSError):
    """What went wrong; `status` is what the server answered, if it did."""

    def __init__(self, text: str, status: int | None) -> None:
        super().__init__(text)
        self.status = status


class SignedReads:
    """`cat_file` of an fsspec file system, for ranges."""

    def __init__(self, system: Any, web: Any) -> None:
        """web: the fsspec file system of HTTP."""
        self._system, self._web = system, web
        self._urls: dict[str, tuple[str, float]] = {}  # by path: URL, until when it is used
        self._lock = threading.Lock()
        self._answered, self._unanswered = False, 0

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        """Bytes of a file. Raises PlainError, or what the library raises."""
        if self._answered or self._unanswered < _ATTEMPTS:
            try:
                return self._plain(path, start, end)
            except PlainError as error:
                if error.status not in _REFUSED and self._unanswered < _ATTEMPTS:
                    raise
                self._urls.pop(path, None)  # it may have run out; the library knows what else
        data: bytes = self._system.cat_file(path, start=start, end=end)
        return data

    def _plain(self, path: str, start: int, end: int) -> bytes:
        try:
            url = self._url(path)
        except Exception:  # of libraries, each in its own way
            self._unanswered = _ATTEMPTS
            raise PlainError("cannot be signed", None) from None
        try:
            data: bytes = self._web.cat_file(url, start=start, end=end)
        except Exception as error:
            status = 404 if isinstance(error, FileNotFoundError) else getattr(error, "status", None)
            text = f"{type(error).__name__}: {error}" if status is None else _reason(error)
            self._answered |= status is not None
            self._unanswered += not self._answered
            raise PlainError(text.replace(url, path), status) from None
        self._answered = True
        return data

    def _url(self, path: str) -> str:
        with self._lock:
            url, until = self._urls.get(path, ("", 0.0))
            if time.monotonic() >= until:
                url = self._system.sign(path, expiration=_VALID_SECONDS)
                self._urls[path] = url, time.monotonic() + _USED_SECONDS
            return url


def _reason(error: Exception) -> str:
    return str(getattr(error, "message", "")) or type(error).__name__
