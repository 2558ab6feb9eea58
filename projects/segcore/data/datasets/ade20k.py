"""ADE20K: panoptic, instance, and semantic with the 847 classes of the full data set.

Semantic segmentation with 150 classes (``ade20k_sem_seg_*``) is Detectron2's. Files that scripts
make in the official code are made here where they are missing and needed.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from segcore.data.datasets.ade20k_files import (
    make_instances_json,
    make_panoptic,
    make_semantic_maps,
)
from segcore.data.datasets.catalog import Derivation, register, register_again
from segcore.data.datasets.categories import instance_metadata, load_categories
from segcore.data.datasets.panoptic import register_panoptic
from segcore.data.datasets.semantic import register_semantic
from segcore.data.panoptic_format import Category
from segcore.errors import DataError
from segcore.text import short_repr

FOLDERS = {"train": "training", "val": "validation"}


def register_ade20k(root: str) -> None:
    """``ade20k_{panoptic,instance}_{train,val}``: 150 classes, of which 100 are things.

    Also has Detectron2's ``ade20k_sem_seg_{train,val}`` make their semantic maps.
    """
    ade = f"{root}/ADEChallengeData2016"
    categories = load_categories("ade20k_150")
    for split, folder in FOLDERS.items():
        images = f"{ade}/images/{folder}"
        instances_json = f"{ade}/ade20k_instance_{split}.json"
        panoptic = f"{ade}/ade20k_panoptic_{split}"
        semantic_maps = f"{ade}/annotations_detectron2/{folder}"
        derivations = ade20k_derivations(root, split)
        register_panoptic(
            f"ade20k_panoptic_{split}",
            categories,
            image_root=images,
            panoptic_json=f"{panoptic}.json",
            panoptic_root=panoptic,
            sem_seg_root=semantic_maps,
            instances_json=instances_json,
            derivations=derivations,
            evaluator_type="ade20k_panoptic_seg",
        )
        name = f"ade20k_instance_{split}"
        register(
            name,
            partial(load_instances, instances_json, images, categories),
            needs={images: "photos", instances_json: "instance annotation in COCO's format"},
            derivations=derivations,
            evaluator_type="coco",
            image_root=images,
            json_file=instances_json,
            **instance_metadata(categories),
        )
        # Detectron2 registers paths and names alone.
        name = f"ade20k_sem_seg_{split}"
        needs = {images: "photos", semantic_maps: "semantic PNGs of contiguous class ids"}
        register_again(name, needs=needs, derivations=derivations)
        if MetadataCatalog.get(name).get("stuff_colors") is None:
            MetadataCatalog.get(name).stuff_colors = [c["color"] for c in categories]


def load_instances(instances_json: str, images: str, categories: list[Category]) -> list[dict]:
    """Return Detectron2's records with contiguous ids, whatever names the JSON has for classes.

    Raises:
        DataError: an annotation is of no class of things.
    """
    contiguous = instance_metadata(categories)["thing_dataset_id_to_contiguous_id"]
    records = load_coco_json(instances_json, images)
    for annotation in (annotation for record in records for annotation in record["annotations"]):
        if annotation["category_id"] not in contiguous:
            raise DataError(
                f"{instances_json}: an annotation has the category id "
                f"{short_repr(annotation['category_id'])}, which is none of the things of ADE20K"
            )
        annotation["category_id"] = contiguous[annotation["category_id"]]
    return records


def ade20k_derivations(root: str, split: str, *, official: bool = True) -> dict[str, Derivation]:
    """Return path -> how it is made of the downloads.

    Args:
        split: "train" or "val".
        official: see :func:`segcore.data.datasets.ade20k_files.make_panoptic`.
    """
    ade, folder = f"{root}/ADEChallengeData2016", FOLDERS[split]
    images, annotations, instance_annotations, semantic_maps = (
        f"{ade}/{name}/{folder}"
        for name in ("images", "annotations", "annotations_instance", "annotations_detectron2")
    )
    instances_json, panoptic = (
        f"{ade}/ade20k_instance_{split}.json",
        f"{ade}/ade20k_panoptic_{split}",
    )
    texts = {
        images: "photos",
        annotations: "class PNGs of ADEChallengeData2016.zip",
        instance_annotations: "instance PNGs, a download of its own (annotations_instance.tar)",
    }

    def derivation(make: Callable, sources: tuple[str, ...], *targets: str) -> Derivation:
        paths = map(Path, (*sources, *targets))
        return Derivation({path: texts[path] for path in sources}, partial(make, *paths))

    make = partial(make_panoptic, official=official)
    both = derivation(make, tuple(texts), panoptic, f"{panoptic}.json")
    instances = (images, instance_annotations)
    return {
        semantic_maps: derivation(make_semantic_maps, (annotations,), semantic_maps),
        instances_json: derivation(make_instances_json, instances, instances_json),
        panoptic: both,
        f"{panoptic}.json": both,
    }


def register_ade20k_full(root: str) -> None:
    """``ade20k_full_sem_seg_{train,val}``: 847 classes in 16-bit maps."""
    ade = f"{root}/ADE20K_2021_17_01"
    for split, folder in FOLDERS.items():
        register_semantic(
            f"ade20k_full_sem_seg_{split}",
            load_categories("ade20k_full_847"),
            image_root=f"{ade}/images_detectron2/{folder}",
            sem_seg_root=f"{ade}/annotations_detectron2/{folder}",
            map_suffix="tif",
            ignore_label=65535,
        )
