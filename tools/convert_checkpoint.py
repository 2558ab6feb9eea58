#!/usr/bin/env python3
"""Convert checkpoints between .pkl, .pth and .safetensors, without executing anything in them.

    python tools/convert_checkpoint.py model_final.pkl model.safetensors
    python tools/convert_checkpoint.py resnet101.pth R-101.pkl --backbone torchvision-resnet
    python tools/convert_checkpoint.py swin_tiny.pth swin_tiny.pkl --backbone swin
    python tools/convert_checkpoint.py pvt_v2_b2.pth pvt_v2_b2.pkl --backbone pvt-v2
    python tools/convert_checkpoint.py model_final.pkl model.pth --config-file configs/...
    python tools/convert_checkpoint.py model.pkl folder --config-file configs/... --transformers

Config and class names that a checkpoint carries stay with it. With --config-file the model is built
and loaded, which gives the entries their present names, adds that config and, if the checkpoint has
none, the class names of its data set, and prints a report of all entries. With --transformers, too,
a folder is written that from_pretrained of the Transformers library takes.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from segcore.requirements import require_detectron2

require_detectron2()

from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from tabulate import tabulate

import segcore.data.datasets  # noqa: F401 registers them
from segcore.checkpoint import (
    CONFIG_KEY,
    SafeCheckpointer,
    class_metadata,
    plain_metadata,
    read_checkpoint,
    use_class_metadata,
    write_checkpoint,
)
from segcore.checkpoint.convert import BACKBONES
from segcore.checkpoint.report import group_names
from segcore.checkpoint.transformers import EXPORTERS, TransformersModel, write_transformers
from segcore.config import config_from_yaml, load_projects
from segcore.engine import setup_config
from segcore.errors import ConfigError
from segcore.program import run_program
from segcore.visualization import categories_of

# Entries that describe the weights; optimizer, schedule and iteration are dropped.
KEPT_KEYS = ("model", "__author__", "matching_heuristics", "metadata", CONFIG_KEY)


def convert(source: str, backbone: str | None, config_file: str | None) -> dict[str, Any]:
    """Read the weights of a file, in the form to be written."""
    if config_file:
        return _through_model(source, config_file)
    checkpoint = read_checkpoint(source)
    if backbone:
        return BACKBONES.find(backbone)(checkpoint["model"])
    return {key: checkpoint[key] for key in KEPT_KEYS if key in checkpoint}


def _through_model(source: str, config_file: str) -> dict[str, Any]:
    cfg = setup_config(config_file, ["MODEL.DEVICE", "cpu"])
    checkpoint = read_checkpoint(source)
    metadata = class_metadata(checkpoint)
    of_model = cfg.clone()
    if metadata is not None:
        use_class_metadata(of_model, metadata, "classes_of_the_checkpoint")
    elif cfg.DATASETS.TRAIN:
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    model = build_model(of_model)
    checkpointer = SafeCheckpointer(model, complete=True)
    checkpointer.load_checkpoint(checkpoint, source)
    print(checkpointer.report.table())
    classes = {} if metadata is None else {"metadata": plain_metadata(metadata)}
    return {"model": model.state_dict(), **classes, CONFIG_KEY: cfg.dump()}


def _of_transformers(checkpoint: dict[str, Any]) -> TransformersModel:
    """Convert what :func:`_through_model` returned."""
    cfg = config_from_yaml(checkpoint[CONFIG_KEY], "the config")
    metadata = class_metadata(checkpoint)
    if metadata is None:
        raise ConfigError("no class names: name a data set that has them as DATASETS.TRAIN")
    use_class_metadata(cfg, metadata, "classes_of_the_checkpoint")
    categories = categories_of(metadata, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    names = [category["name"] for category in categories]
    return EXPORTERS.find(cfg.MODEL.META_ARCHITECTURE)(checkpoint["model"], cfg, names)


def argument_parser() -> argparse.ArgumentParser:
    load_projects()  # they add to the backbones
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=".pkl, .pth or .safetensors")
    parser.add_argument("target", help="the suffix chooses the format")
    parser.add_argument(
        "--transformers", action="store_true", help="write a folder for the Transformers library"
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--backbone", choices=sorted(BACKBONES), help="kind of ImageNet backbone that the source is"
    )
    way.add_argument("--config-file", help="load it into this model and write its weights")
    return parser


def convert_file(args: argparse.Namespace) -> None:
    if args.transformers and not args.config_file:
        raise ConfigError("--transformers: expected a --config-file, which says what the model is")
    checkpoint = convert(args.source, args.backbone, args.config_file)
    if args.transformers:
        write_transformers(_of_transformers(checkpoint), args.target)
    else:
        write_checkpoint(checkpoint, args.target)
    entries = tabulate(group_names(checkpoint["model"]), headers=["names", "entries"])
    print(f"{args.target}\n{entries}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program on these arguments; return the exit code."""
    return run_program(convert_file, argument_parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())
