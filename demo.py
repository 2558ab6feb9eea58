#!/usr/bin/env python3
"""Segment photos: ``python demo.py --config-file X --weights W photo.jpg folder/ --output DIR``."""

import sys

from segcore.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("predict"))
