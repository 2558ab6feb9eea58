"""``python -m segcore.report``: the command ``segcore compare``."""

import sys

from segcore.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("compare", prog="python -m segcore.report"))
