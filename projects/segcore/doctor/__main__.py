"""``python -m segcore.doctor``: the command ``segcore doctor``."""

import sys

from segcore.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("doctor", prog="python -m segcore.doctor"))
