"""Cityscapes, which Detectron2 registers: what it misses is made of gtFine."""

from functools import partial
from pathlib import Path

from segcore.data.datasets.catalog import Derivation, register_again
from segcore.data.datasets.cityscapes_files import make_panoptic, make_train_ids


def register_cityscapes(root: str) -> None:
    """Have ``cityscapes_fine_panoptic_{train,val}`` make their panoptic annotation."""
    for split in ("train", "val"):
        derivations = cityscapes_derivations(root, split)
        needs = dict.fromkeys(derivations, "panoptic annotation")
        register_again(f"cityscapes_fine_panoptic_{split}", needs=needs, derivations=derivations)


def cityscapes_derivations(root: str, split: str) -> dict[str, Derivation]:
    """Return path -> how it is made, with the semantic maps beside gtFine's files."""
    folder = f"{root}/cityscapes/gtFine/{split}"
    panoptic = f"{root}/cityscapes/gtFine/cityscapes_panoptic_{split}"
    sources = {folder: "annotation: gtFine_trainvaltest.zip"}
    make = partial(_make, *map(Path, (folder, panoptic, f"{panoptic}.json")))
    return dict.fromkeys((panoptic, f"{panoptic}.json"), Derivation(sources, make))


def _make(folder: Path, pngs: Path, json: Path) -> None:
    make_train_ids(folder)
    make_panoptic(folder, pngs, json)
