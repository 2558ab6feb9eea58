"""``python -m segcore.data.convert``: the command ``segcore convert``."""

import sys

from segcore.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("convert", prog="python -m segcore.data.convert"))
