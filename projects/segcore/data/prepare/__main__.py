"""``python -m segcore.data.prepare``: the command ``segcore prepare``."""

import sys

from segcore.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("prepare", prog="python -m segcore.data.prepare"))
