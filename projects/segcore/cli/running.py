"""Running of ``segcore COMMAND ...``, and of one subcommand as a program of its own."""

import argparse
import sys
from collections.abc import Sequence
from pkgutil import resolve_name

from segcore import __version__
from segcore.cli.commands import COMMANDS
from segcore.errors import RequirementError
from segcore.program import run_program


def run(argv: Sequence[str] | None = None, *, prog: str = "segcore") -> int:
    """Run the subcommand that the first of the arguments names; return the exit code."""
    column = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:<{column}}{item.summary}" for name, item in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s COMMAND [ARGUMENTS]",
        description="Train, evaluate and use models of panoptic, instance and semantic "
        f"segmentation.\n\ncommands:\n{listed}",
        epilog=f"{prog} COMMAND --help says what a command takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"segcore {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    return run_command(args.command, args.arguments, prog=f"{prog} {args.command}")


def run_command(name: str, argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run one subcommand on these arguments; return the exit code.

    Args:
        argv: by default those of this process.
        prog: name of the program in its help; by default the name of the script.
    """
    command = COMMANDS[name]
    try:
        parser = resolve_name(command.parser)()
    except RequirementError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if prog:
        parser.prog = prog
    return run_program(command.main, parser, argv)
