"""Builds segcore's operators from csrc/; all else about the package is in pyproject.toml."""

import os

from setuptools import setup


def operators() -> dict:
    """Extension modules and build command for ``setup``; needs PyTorch."""
    return {}


# tools/bootstrap.py installs first and compiles afterwards, so that a machine without a working
# compiler still gets the package.
setup(**({} if os.environ.get("SEGCORE_BUILD_OPERATORS") == "0" else operators()))
