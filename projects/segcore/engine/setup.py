"""From the command line to a config that fits this machine."""

import logging
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from fvcore.common.config import BASE_KEY

from segcore.config import get_cfg

logger = logging.getLogger(__name__)

SYNC_NORMS = {"SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N"}
NUM_CLASSES_KEY = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
OWN_DATA_KEY = "DATASETS.PANOPTIC"


def argument_parser() -> ArgumentParser:
    """Detectron2's arguments, and ``--check-data``."""
    parser = default_argument_parser()
    parser.add_argument(
        "--check-data",
        action="store_true",
        help="check the data that DATASETS.PANOPTIC names, print a report, and do nothing else",
    )
    return parser


def setup_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """The config of a YAML file and of KEY VALUE pairs, fit for this machine; not frozen.

    A YAML file with Python tags, as the official ones, is loaded as Detectron2 loads it.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: a key that no configuration has.
    """
    cfg = load_config(config_file, opts)
    fit_to_machine(cfg)
    return cfg


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """The first half of ``setup_config``: the config as it is written."""
    cfg = get_cfg()
    if config_file:
        if not Path(config_file).is_file():
            raise FileNotFoundError(f"config file {config_file} does not exist")
        cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(opts))
    return cfg


def fit_to_machine(cfg: CfgNode, num_gpus: int | None = None) -> None:
    """Choose the CPU where there is no GPU, or none is wanted; adapt what cannot run there.

    Args:
        num_gpus: as given on the command line; 0 means the CPU.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and (num_gpus == 0 or not torch.cuda.is_available()):
        logger.info(
            "MODEL.DEVICE is cpu, not %s, as %s",
            cfg.MODEL.DEVICE,
            "--num-gpus is 0" if torch.cuda.is_available() else "PyTorch finds no GPU",
        )
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu":
        replaced = list(_replace_sync_norms(cfg, ""))
        if replaced:
            logger.warning(
                "SyncBN exists on GPUs only: %s %s BN, whose statistics are those of one process",
                ", ".join(replaced),
                "becomes" if len(replaced) == 1 else "become",
            )


def explicit_num_classes(config_file: str, opts: Sequence[str] = ()) -> int | None:
    """The class count that the user has asked for together with own data, or None.

    It counts if it is given on the command line, or in the YAML file that sets
    ``DATASETS.PANOPTIC`` or one built on that. What comes from that file's ``_BASE_`` was meant for
    other data.
    """
    given = dict(zip(opts[::2], opts[1::2], strict=False))
    if NUM_CLASSES_KEY in given:
        return int(given[NUM_CLASSES_KEY])
    if any(key.startswith(OWN_DATA_KEY) for key in given):
        return None
    found = None
    for settings in _yaml_files(Path(config_file)) if config_file else ():
        found = found or settings.get(NUM_CLASSES_KEY)
        if any(key.startswith(OWN_DATA_KEY) and value for key, value in settings.items()):
            return int(found) if found else None
    return None


def _replace_sync_norms(node: CfgNode, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _replace_sync_norms(value, f"{prefix}{key}.")
        elif key.endswith("NORM") and value in SYNC_NORMS:
            node[key] = "BN"
            yield prefix + key


def _yaml_files(path: Path) -> Iterator[dict[str, str]]:
    """What a YAML file itself sets, by full key, then what its bases do: the strongest first."""
    # Composed, not constructed: no tag of the file is acted on.
    settings = dict(_scalars(yaml.compose(path.read_text()), ""))
    bases = [value for key, value in settings.items() if key.split(".")[0] == BASE_KEY]
    yield settings
    for base in reversed(bases):
        yield from _yaml_files(path.parent / Path(base).expanduser())


def _scalars(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, f"{prefix}.{key.value}" if prefix else key.value)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _scalars(value, f"{prefix}.{index}")
    elif node is not None:
        yield prefix, node.value
