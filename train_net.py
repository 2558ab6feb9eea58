#!/usr/bin/env python3
"""Train, resume or evaluate any config: ``python train_net.py --config-file X [KEY VALUE ...]``."""

import sys

from segcore.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("train"))
