"""Quickstart: the config of each system that ``make demo`` trains on drawn pictures."""

from pathlib import Path
from typing import NamedTuple

from segcore.registry import NamedRegistry


class Quickstart(NamedTuple):
    config_file: Path
    is_default: bool


QUICKSTARTS: NamedRegistry[Quickstart] = NamedRegistry("--system")


def register_quickstart(system: str, config_file: str | Path, *, is_default: bool = False) -> None:
    """Offer a config to ``tools/quickstart.py`` under the name of a system.

    Args:
        config_file: absolute, or in the folder of the repository. Its data are those of
            ``configs/_base_/datasets/quickstart.yaml``.
        is_default: whether it is trained where no system is named.
    """
    QUICKSTARTS.register(system, Quickstart(Path(config_file), is_default))


def default_system() -> str | None:
    """Return the name of the default system, or None if there is none."""
    return next((name for name, quickstart in QUICKSTARTS.items() if quickstart.is_default), None)
