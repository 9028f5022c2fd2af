"""Where what is made once and kept lies: compiled kernels, indexes of videos."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """This project's folder in the user's cache; it need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sts-dali"
