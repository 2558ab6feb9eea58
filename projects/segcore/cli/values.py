"""Values of arguments that several commands take."""

import argparse
import re


def positive(text: str) -> int:
    """Parse an integer above 0."""
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise argparse.ArgumentTypeError(f"expected an integer above 0, got {text!r}")
    return int(text)
