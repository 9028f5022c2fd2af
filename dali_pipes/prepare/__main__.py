"""`python -m dali_pipes.prepare COMMAND`: make and check training data.

A command is a module of this folder with `add_arguments(parser)` and `main(args) -> int`, the exit
status; the first line of its docstring is its help.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = ("samples",)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dali_pipes.prepare", description="Make and check training data."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"dali_pipes.prepare.{name}")
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
    status: int = args.main(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
