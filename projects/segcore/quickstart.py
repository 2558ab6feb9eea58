"""Quickstart: the config of each system that ``make demo`` trains on drawn pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from segcore.registry import NamedRegistry

if TYPE_CHECKING:
    from detectron2.config import CfgNode


class OtherData(NamedTuple):
    """Functions for a quickstart on other data than ``segcore.data.quickstart`` draws.

    Attributes:
        draw: draws the data, unless they are there; paths start at the folder of the repository.
        show: prints results and draws predictions into ``OUTPUT_DIR``: called with the config, the
            file of the weights, and the results of the evaluation by task.
    """

    draw: Callable[[], object]
    show: Callable[[CfgNode, Path, Mapping[str, Any]], None]


class Quickstart(NamedTuple):
    config_file: Path
    is_default: bool
    data: OtherData | None


QUICKSTARTS: NamedRegistry[Quickstart] = NamedRegistry("--system")


def register_quickstart(
    system: str,
    config_file: str | Path,
    *,
    is_default: bool = False,
    data: OtherData | None = None,
) -> None:
    """Offer a config to ``tools/quickstart.py`` under the name of a system.

    Args:
        config_file: absolute, or in the folder of the repository. Its data are those of
            ``configs/_base_/datasets/quickstart.yaml``, unless ``data`` are given.
        is_default: whether it is trained where no system is named.
    """
    QUICKSTARTS.register(system, Quickstart(Path(config_file), is_default, data))


def default_system() -> str | None:
    """Return the name of the default system, or None if there is none."""
    return next((name for name, quickstart in QUICKSTARTS.items() if quickstart.is_default), None)
