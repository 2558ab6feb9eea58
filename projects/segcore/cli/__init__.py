"""The command ``segcore``, and its subcommands as programs of their own."""

from segcore.cli.running import run, run_command

__all__ = ["run", "run_command"]
