"""Kinds of the user's data besides COCO panoptic format; systems add those that they train on."""

from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import Metadata

from segcore.data.report import Report
from segcore.errors import ConfigError
from segcore.registry import NamedRegistry

PANOPTIC = "DATASETS.PANOPTIC"


@dataclass(frozen=True)
class DataKind:
    """Functions for data of a kind.

    Attributes:
        is_set: whether a config names such data.
        set_up: checks them, registers them with Detectron2 and adapts the config in place.
        check: reads all of them; returns a report for each split.
        use_classes: adapts a config further to the classes that a checkpoint carries, in place,
            where their number is not all that counts.
    """

    is_set: Callable[[CfgNode], bool]
    set_up: Callable[[CfgNode], None]
    check: Callable[[CfgNode], list[Report]]
    use_classes: Callable[[CfgNode, Metadata], None] = lambda cfg, metadata: None


# By the section of the config that names the data, such as "DATASETS.IMAGE_FOLDER".
DATA_KINDS: NamedRegistry[DataKind] = NamedRegistry("DATASETS")


def kinds_of(cfg: CfgNode) -> dict[str, DataKind]:
    """Return the kinds whose section the config has, by its name; a config may be of a system
    without the others."""
    return {
        name: kind
        for name, kind in DATA_KINDS.items()
        if name.removeprefix("DATASETS.") in cfg.DATASETS
    }


def configured_kind(cfg: CfgNode) -> DataKind | None:
    """Return the kind of the config's data, None for COCO panoptic format or where there are none.

    Raises:
        ConfigError: data of several kinds are set.
    """
    kinds = {name: kind for name, kind in kinds_of(cfg).items() if kind.is_set(cfg)}
    panoptic = any(path for split in cfg.DATASETS.PANOPTIC.values() for path in split.values())
    names = [*kinds, *([PANOPTIC] if panoptic else [])]
    if len(names) > 1:
        raise ConfigError(f"{names[0]} and {names[1]} are both set: choose one")
    return next(iter(kinds.values()), None)
