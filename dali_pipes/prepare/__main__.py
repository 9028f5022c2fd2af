"""`python -m dali_pipes.prepare COMMAND`: make and check training data.

A command is a module of this folder with `add_arguments(parser)` and `main(args) -> int`, the exit
status; the first line of its docstring is its help. Exit status: 0 all is well, 1 something failed
or is wrong (every case is named), 2 nothing could be done with what was given.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from dali_pipes.prepare.work import BadInput
from dali_pipes.terminal import accept_all_names, ended

COMMANDS = {  # by module
    "check": "check",
    "list_clips": "list",
    "frames": "frames",
    "flow": "flow",
    "reels": "reels",
    "samples": "samples",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dali_pipes.prepare", description="Make and check training data."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module_name, name in COMMANDS.items():
        module = import_module(f"dali_pipes.prepare.{module_name}")
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    args = parser.parse_args(argv)
    accept_all_names()
    try:
        status: int = args.main(args)
    except BadInput as error:
        return ended(2, f"{parser.prog}: {error}")
    except OSError as error:
        return ended(1, f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        return ended(130, "interrupted; the same command continues where this one stopped")
    return status


if __name__ == "__main__":
    sys.exit(main())
