"""Detectron2's ``CfgNode`` with safe loading: no YAML file runs code."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from detectron2.config import CfgNode

from segcore.config.faults import raise_faults
from segcore.config.merging import merge_pairs, merge_settings
from segcore.config.yaml_files import parse_config, read_config_files
from segcore.errors import ConfigError
from segcore.text import short_repr


class SafeCfgNode(CfgNode):
    """Configuration node that loads YAML safely and names the fault of a setting.

    Differs from Detectron2's as follows:

    * YAML is never loaded unsafely, even with ``allow_unsafe``; Python files are not loaded.
      Of ``!!python/...`` tags the one that official files need is understood:
      :func:`segcore.config.expression.evaluate_int_list`.
    * ``_BASE_`` names local files. Files, nesting and YAML aliases are bounded.
    * Faults are a :class:`ConfigError` with the file, the line and the key.
    * An integer is accepted if the default is a float, and any text if it is a text.
    * Files of version 1, from before 2019, are not converted.
    """

    @classmethod
    def from_node(cls, node: CfgNode) -> "SafeCfgNode":
        """Copy ``node`` and the nodes in it."""
        result = cls()
        result.__dict__.update(copy.deepcopy(node.__dict__))
        for key, value in node.items():
            result[key] = cls.from_node(value) if isinstance(value, CfgNode) else copy.copy(value)
        return result

    @classmethod
    def load_yaml_with_base(
        cls, filename: str | os.PathLike, allow_unsafe: bool = False
    ) -> dict[str, Any]:
        """Load a file over those that its ``_BASE_`` names; nested dicts of plain values.

        Args:
            allow_unsafe: argument of Detectron2; has no effect.
        """
        result: dict[str, Any] = {}
        for file in read_config_files(filename):
            _update(result, file.settings)
        return result

    def merge_from_file(self, cfg_filename: str | os.PathLike, allow_unsafe: bool = False) -> None:
        """Merge a file over those that its ``_BASE_`` names.

        Args:
            allow_unsafe: argument of Detectron2; has no effect.

        Raises:
            ConfigError: a file cannot be read, or sets what there is not; names file and line.
        """
        faults = []
        for file in read_config_files(cfg_filename):
            version = file.settings.get("VERSION", self.get("VERSION"))
            if version != self.get("VERSION"):
                shown = short_repr(version, 40)
                raise ConfigError(
                    f"{file.location('VERSION')}: VERSION: expected {self.VERSION}, got {shown}"
                )
            faults += merge_settings(self, file.settings, file.location)
        raise_faults(faults)

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Merge another config; a key that this one lacks is a ConfigError."""
        raise_faults(merge_settings(self, cfg_other))

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merge ``[key, value, key, value, ...]``, such as from a command line.

        Raises:
            ConfigError: an odd number of items, an unknown key, or a value of another type.
        """
        raise_faults(merge_pairs(self, cfg_list))

    @classmethod
    def _load_cfg_from_yaml_str(cls, str_obj: str) -> "SafeCfgNode":
        return cls(parse_config(str_obj, "config").settings)

    @classmethod
    def _load_cfg_py_source(cls, filename: str) -> NoReturn:
        raise ConfigError(f"{filename}: a config in Python is not loaded: expected YAML")


def _update(target: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Merge nested dicts; a value replaces a section, and a section a value."""
    for key, value in settings.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _update(target[key], value)
        else:
            target[key] = value
