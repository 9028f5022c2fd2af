"""Which checkpoint a run goes on from."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from model.training.checkpoint import newest
from model.training.options import check_same_run


def run_of(path: Path | None, save_dir: Path) -> str | None:
    """The run that a checkpoint belongs to: the folder of `save_dir` that it is in. One from
    elsewhere has none; what it says of itself decides no path."""
    if path is None or path.resolve().parent.parent != save_dir.resolve():
        return None
    return path.resolve().parent.name


def find_checkpoint(args: Namespace) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to resume from, if one is asked for and there is one.

    Raises ValueError if there is none at the place named, or it is of a run with other options.
    """
    if args.resume is None:
        return None, None
    place = args.model_save_dir if args.resume is True else Path(args.resume)
    found = newest(place)
    if found is None and args.resume is not True:
        raise ValueError(f"{place}: no checkpoint there")
    if found is None:
        print(f"no checkpoint under {place} yet: starting from the beginning")
        return None, None
    path, saved = found
    for name in ("args", "loader"):
        if not isinstance(saved.get(name), dict):
            raise ValueError(f"{path}: {name} is missing or not what train.py writes")
    check_same_run(args, saved["args"])
    print(f"resuming {path}")
    return path, saved
