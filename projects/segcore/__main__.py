"""``python -m segcore``: the command ``segcore``."""

import sys

from segcore.cli import run

if __name__ == "__main__":
    sys.exit(run(prog="python -m segcore"))
