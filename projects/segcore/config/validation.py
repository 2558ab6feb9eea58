"""Validation of all values of a config, before anything is built."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

import segcore.config.relations
import segcore.config.values  # noqa: F401 adds the rules
from segcore.config.faults import raise_faults
from segcore.config.rules import RELATIONS, RULES
from segcore.errors import ConfigError
from segcore.text import did_you_mean, short_repr


def validate_config(cfg: CfgNode) -> None:
    """Raise a ConfigError that lists the values that are out of range or do not go together.

    Values that depend on the data, such as the number of classes, are checked with the data.
    """
    faults, faulty = [], []
    for key, rule in RULES.items():
        node, name = _node_of(cfg, key)
        fault = rule.fault(node[name]) if node is not None and name in node else None
        if fault:
            faults.append(f"{key}: {fault}")
            faulty.append(key)
    for keys, check in RELATIONS:
        if not any(_concerns(key, wrong) for key in keys for wrong in faulty):
            faults += check(cfg)
    raise_faults(faults)


def require_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Raise a ConfigError if a data set is not registered, or there is none to train on.

    Set up custom data before, by :func:`segcore.data.custom_data.setup_custom_data`.
    """
    if training and not cfg.DATASETS.TRAIN:
        raise ConfigError(
            "DATASETS.TRAIN: there is nothing to train on: give DATASETS.PANOPTIC.TRAIN.{IMAGES,"
            "JSON,PNGS} of custom data, or names of data sets"
        )
    names = {"TRAIN": cfg.DATASETS.TRAIN if training else (), "TEST": cfg.DATASETS.TEST}
    raise_faults(
        [
            f"DATASETS.{split}: there is no data set {short_repr(name)}"
            + did_you_mean(name, DatasetCatalog.list(), most=2)
            for split, split_names in names.items()
            for name in split_names
            if name not in DatasetCatalog
        ]
    )


def _node_of(cfg: CfgNode, key: str) -> tuple[Any, str]:
    """Return the node that holds a full key, or None, and the name of the key in it."""
    *sections, name = key.split(".")
    node = cfg
    for section in sections:
        node = node.get(section) if isinstance(node, CfgNode) else None
    return node if isinstance(node, CfgNode) else None, name


def _concerns(key: str, wrong: str) -> bool:
    """Return whether a wrong key is ``key`` or stands in the section ``key``."""
    return wrong == key or wrong.startswith(f"{key}.")
