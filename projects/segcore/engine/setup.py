"""Config of a run, adapted to this machine."""

import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode

from segcore.config import load_config
from segcore.config.rules import keys_with_sync_norm
from segcore.config.yaml_files import read_config_files
from segcore.errors import ConfigError
from segcore.precision import check_precision
from segcore.text import short_repr

logger = logging.getLogger(__name__)

NUM_CLASSES_KEY = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
CUSTOM_DATA_KEY = "DATASETS.PANOPTIC"
CUSTOM_DATA_PATHS = [
    f"{CUSTOM_DATA_KEY}.{split}.{name}"
    for split in ("TRAIN", "TEST")
    for name in ("IMAGES", "JSON", "PNGS")
]


def setup_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Load a YAML file and KEY VALUE pairs and adapt the config to this machine; not frozen.

    Raises:
        ConfigError: see :func:`segcore.config.load_config`; or there is no such GPU.
    """
    cfg = load_config(config_file, opts)
    fit_to_machine(cfg)
    return cfg


def fit_to_machine(cfg: CfgNode, num_gpus: int | None = None) -> None:
    """Choose the CPU if there is no GPU or none is wanted; replace layers that need a GPU.

    Args:
        num_gpus: number on the command line; 0 means the CPU.

    Raises:
        ConfigError: there are GPUs, but not the one that ``MODEL.DEVICE`` names; the device does
            not compute in ``TEST.PRECISION``.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and (num_gpus == 0 or not torch.cuda.is_available()):
        logger.info(
            "MODEL.DEVICE is cpu, not %s, as %s",
            cfg.MODEL.DEVICE,
            "--num-gpus is 0" if torch.cuda.is_available() else "PyTorch finds no GPU",
        )
        cfg.MODEL.DEVICE = "cpu"
    index = cfg.MODEL.DEVICE.partition("cuda:")[2]
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(
            f"MODEL.DEVICE: expected a GPU from 0 to {torch.cuda.device_count() - 1}, got {index}"
        )
    if cfg.MODEL.DEVICE == "cpu":
        replaced = list(keys_with_sync_norm(cfg))
        if replaced:
            cfg.merge_from_list([part for key in replaced for part in (key, "BN")])
            logger.warning(
                "SyncBN exists on GPUs only: %s %s BN, whose statistics are those of one process",
                ", ".join(replaced),
                "becomes" if len(replaced) == 1 else "become",
            )
    check_precision(cfg.TEST.PRECISION, torch.device(cfg.MODEL.DEVICE).type)


def explicit_num_classes(config_file: str, opts: Sequence[str] = ()) -> int | None:
    """The class count that the user has asked for together with custom data, or None.

    It counts if it is set on the command line, or in the YAML file that sets
    ``DATASETS.PANOPTIC`` or one based on it. The value of that file's ``_BASE_`` was meant for
    other data.
    """
    given = dict(zip(opts[::2], opts[1::2], strict=False))
    if NUM_CLASSES_KEY in given:
        return _class_count(given[NUM_CLASSES_KEY])
    if any(key.startswith(CUSTOM_DATA_KEY) for key in given):
        return None
    found = None
    for file in reversed(read_config_files(config_file)) if config_file else ():
        found = found or file.get(NUM_CLASSES_KEY)
        if any(map(file.get, CUSTOM_DATA_PATHS)):
            return _class_count(found) if found else None
    return None


def _class_count(value: object) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        shown = short_repr(value)
        raise ConfigError(f"{NUM_CLASSES_KEY}: expected an integer, got {shown}") from error
