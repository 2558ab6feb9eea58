"""The configurations that come with the package, found by name.

Imports neither PyTorch nor Detectron2.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_IN_WHEEL, _IN_CLONE = _PACKAGE / "configs", _PACKAGE.parents[1] / "configs"

CONFIGS_FOLDER = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CLONE
"""Folder of the configurations: ``setup.py`` copies that of the repository into wheels."""


def find_config(path: str, folder: str = "") -> str:
    """Return the path of a configuration file.

    A file of this path takes precedence; without one, the path is the name of a configuration that
    comes with the package, such as "coco/panoptic-segmentation/x.yaml".

    Args:
        folder: the base of a relative path; by default the working directory.

    Returns:
        A path of which there need not be a file.
    """
    file = os.path.join(folder, path)
    named = os.path.join(CONFIGS_FOLDER, path)
    return named if not os.path.lexists(file) and os.path.isfile(named) else file


def config_names() -> list[str]:
    """Return the names of all configurations that come with the package."""
    names = (file.relative_to(CONFIGS_FOLDER) for file in CONFIGS_FOLDER.glob("**/*.yaml"))
    return sorted(name.as_posix() for name in names if "_base_" not in name.parts)
