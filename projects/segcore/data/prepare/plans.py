"""What a published data set has to consist of, and which of it is made of the rest."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from tqdm import tqdm

from segcore.data.datasets.ade20k import ade20k_derivations
from segcore.data.datasets.catalog import Derivation
from segcore.data.datasets.cityscapes import cityscapes_derivations
from segcore.data.datasets.panoptic import semantic_maps_of_panoptic
from segcore.data.derived import locked
from segcore.errors import DataError
from segcore.files import atomic_folder
from segcore.text import printable

MAX_MEMBERS, MAX_MEMBER_BYTES = 1_000_000, 2**27


@dataclass(frozen=True)
class Plan:
    """Parts of a data set.

    Attributes:
        downloads: path -> description, of what cannot be made.
        derivations: path -> how it is made, in the order of making.
    """

    downloads: Mapping[str, str]
    derivations: Mapping[str, Derivation] = field(default_factory=dict)


def coco_plan(root: str, splits: list[str], official: bool) -> Plan:
    coco, downloads, derivations = f"{root}/coco", {}, {}
    for split in (f"{name}2017" for name in splits):
        annotations, pngs = f"{coco}/annotations", f"{coco}/panoptic_{split}"
        downloads[f"{coco}/{split}"] = f"photos: {split}.zip"
        for kind, archive in (("instances", "annotations"), ("panoptic", "panoptic_annotations")):
            name = f"{annotations}/{kind}_{split}.json"
            downloads[name] = f"{kind} annotation: {archive}_trainval2017.zip"
        archive = f"{annotations}/panoptic_{split}.zip"
        derivations[pngs] = Derivation(
            {archive: "panoptic PNGs: panoptic_annotations_trainval2017.zip"},
            partial(unpack_pngs, Path(archive), Path(pngs)),
        )
        maps = f"{coco}/panoptic_semseg_{split}"
        json = f"{annotations}/panoptic_{split}.json"
        derivations[maps] = semantic_maps_of_panoptic(COCO_CATEGORIES, json, pngs, maps)
    return Plan(downloads, derivations)


def ade20k_plan(root: str, splits: list[str], official: bool) -> Plan:
    derivations = {}
    for split in splits:
        derivations |= ade20k_derivations(root, split, official=official)
    return Plan({}, derivations)


def cityscapes_plan(root: str, splits: list[str], official: bool) -> Plan:
    downloads, derivations = {}, {}
    for split in splits:
        photos = f"{root}/cityscapes/leftImg8bit/{split}"
        downloads[photos] = "photos: leftImg8bit_trainvaltest.zip"
        derivations |= cityscapes_derivations(root, split)
    return Plan(downloads, derivations)


def mapillary_plan(root: str, splits: list[str], official: bool) -> Plan:
    """Nothing is to be made: the download has everything."""
    downloads = {}
    for folder in ({"train": "training", "val": "validation"}[split] for split in splits):
        base = f"{root}/mapillary_vistas/{folder}"
        for name in ("images", "labels", "panoptic", "panoptic/panoptic_2018.json"):
            downloads[f"{base}/{name}"] = "the download of Mapillary Vistas v1.2"
    return Plan(downloads)


PLANS: dict[str, Callable[[str, list[str], bool], Plan]] = {
    "coco": coco_plan,
    "ade20k": ade20k_plan,
    "cityscapes": cityscapes_plan,
    "mapillary": mapillary_plan,
}


def unpack_pngs(archive: Path, target: Path) -> None:
    """Make a folder of the PNGs of a ZIP file, whatever folders they have there.

    Raises:
        DataError: it is no such file, or two PNGs have one name.
        OutputError: the folder cannot be written.
    """
    with locked(target):
        if target.exists():
            return
        try:
            with zipfile.ZipFile(archive) as file, atomic_folder(target) as unfinished:
                for member in tqdm(_pngs(archive, file), f"Making {target}", delay=1):
                    path = unfinished / PurePosixPath(member.filename).name
                    with open(path, "xb") as png:
                        png.write(file.read(member))
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{printable(archive)}: not a ZIP file that can be read") from error


def _pngs(archive: Path, file: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = [
        member
        for member in file.infolist()
        if member.filename.endswith(".png") and "__MACOSX" not in member.filename
    ]
    names = {PurePosixPath(member.filename).name for member in members}
    if not members or len(names) < len(members) or len(members) > MAX_MEMBERS:
        raise DataError(
            f"{printable(archive)}: expected 1 to {MAX_MEMBERS} PNGs of different names, got "
            f"{len(members)} of {len(names)} names"
        )
    if max(member.file_size for member in members) > MAX_MEMBER_BYTES:
        raise DataError(f"{printable(archive)}: has a PNG of more than {MAX_MEMBER_BYTES} bytes")
    return members
