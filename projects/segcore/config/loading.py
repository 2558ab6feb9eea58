"""Configurations from defaults, a file, a command line, or the text in a checkpoint."""

from collections.abc import Callable, Sequence

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

import segcore.backbones  # noqa: F401 registers them
from segcore.config.faults import raise_faults
from segcore.config.keys import add_segcore_config
from segcore.config.merging import merge_settings
from segcore.config.node import SafeCfgNode
from segcore.config.validation import validate_config
from segcore.config.yaml_files import parse_config
from segcore.errors import ConfigError
from segcore.registry import project_entry_points


def get_cfg() -> SafeCfgNode:
    """Return a config with all keys that YAML files of this repository and official ones set.

    It loads YAML safely, see :class:`SafeCfgNode`.

    A project takes part by naming a function ``add_config(cfg)`` under the entry point group
    ``segcore.projects`` of its package; importing it also registers the project's modules.
    """
    cfg = get_detectron2_cfg()
    add_segcore_config(cfg)
    for add_config in load_projects():
        add_config(cfg)
    return SafeCfgNode.from_node(cfg)


def load_projects() -> list[Callable[[CfgNode], None]]:
    """Import the installed projects, which registers their parts; return their ``add_config``.

    They are those of the entry point group ``segcore.projects``, in the order of their names.
    """
    return [entry.load() for entry in project_entry_points()]


def load_config(config_file: str, opts: Sequence[str] = ()) -> SafeCfgNode:
    """Load a YAML file and KEY VALUE pairs; return the config, validated, not frozen.

    Args:
        config_file: "" for none, if the pairs say all.

    Raises:
        ConfigError: the file cannot be read, a key or a value is wrong.
    """
    if not config_file and "MODEL.META_ARCHITECTURE" not in opts:
        raise ConfigError("no config: give --config-file, such as one of configs/quickstart")
    cfg = get_cfg()
    if config_file:
        cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(opts))
    validate_config(cfg)
    return cfg


def config_from_yaml(text: str, source: str) -> SafeCfgNode:
    """Load a YAML text, such as ``cfg.dump()`` gives; return the config, validated, not frozen.

    Args:
        source: name of the text in messages, such as the checkpoint that it comes from.

    Raises:
        ConfigError: the text is no YAML, sets what there is not, or has a ``_BASE_``.
    """
    config = parse_config(text, source)
    if config.bases:
        raise ConfigError(f"{config.source}: _BASE_ is for files only")
    cfg = get_cfg()
    raise_faults(merge_settings(cfg, config.settings, config.location))
    validate_config(cfg)
    return cfg
