"""What went wrong between here and an address, in words without secrets, and whether it may pass.

passes          time-outs, connections that break, 5xx, 429, bodies that end early
does not pass   404, 401, 403, no credentials, what a server does not do
"""

from dali_pipes.storage.address import without_secrets

ABSENT = "no such file"
_FINAL_STATUS = (301, 405, 416, 501)  # another region, not allowed, behind the end, not known
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")


class Final(OSError):
    """What no further attempt would mend."""


def diagnosis(error: Exception) -> tuple[str, bool]:
    """(what is wrong, in words; whether it may pass)."""
    status = None
    cause: BaseException | None = error
    while cause is not None and status is None:
        status = _status(cause)
        cause = cause.__cause__
    hidden = error.__cause__  # fsspec's http says FileNotFoundError of whatever goes wrong
    if status is None and isinstance(error, FileNotFoundError) and isinstance(hidden, Exception):
        return diagnosis(hidden)
    text = without_secrets(str(error)) or type(error).__name__
    name = type(error).__name__
    if isinstance(error, Final):
        return str(error), False
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError)):
        return ABSENT, False
    if status in (401, 403) or (status is None and isinstance(error, PermissionError)):
        return f"access denied ({text}): see the credentials in the environment", False
    if name in _NO_CREDENTIALS:
        return f"{text}: set credentials in the environment", False
    if status is not None:
        return f"the server answers {status} ({text})", status not in _FINAL_STATUS
    return f"{name}: {text}" if name not in ("OSError", "PlainError", text) else text, True


def code(error: BaseException) -> str | None:
    """The code of S3 for an error of s3fs."""
    answer = getattr(error.__cause__, "response", None)
    return answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp, botocore or gcsfs is about."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        answer = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return answer if isinstance(answer, int) else None
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int | str) and str(value).isdecimal() and int(value) >= 300:
            return int(value)
    return None
