"""Where prepared data lie: a folder, or an object store anywhere that fsspec reaches."""

from dali_pipes.storage.address import is_address, place
from dali_pipes.storage.files import LocalFiles, NotFetched, Unreachable
from dali_pipes.storage.remote import RemoteFiles

__all__ = [
    "LocalFiles",
    "NotFetched",
    "RemoteFiles",
    "Unreachable",
    "is_address",
    "place",
]
