"""Fixtures of more than one package."""

from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path):
    """Write a text file below the test's folder; returns its path."""

    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write
