"""``python -m segcore.analysis``: the command ``segcore analyze``."""

import sys

from segcore.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("analyze", prog="python -m segcore.analysis"))
