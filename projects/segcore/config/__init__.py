"""Configuration: keys of Detectron2, of this repository and of projects, loaded safely."""

from segcore.requirements import require_detectron2

require_detectron2()

from segcore.config.keys import add_segcore_config
from segcore.config.loading import config_from_yaml, get_cfg, load_config, load_projects
from segcore.config.node import SafeCfgNode
from segcore.config.validation import require_datasets, validate_config

__all__ = [
    "SafeCfgNode",
    "add_segcore_config",
    "config_from_yaml",
    "get_cfg",
    "load_config",
    "load_projects",
    "require_datasets",
    "validate_config",
]
