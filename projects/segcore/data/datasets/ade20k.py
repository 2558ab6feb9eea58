"""ADE20K: panoptic, instance, and semantic with the 847 classes of the full data set.

Semantic segmentation with 150 classes (``ade20k_sem_seg_*``) is Detectron2's.
"""

from functools import partial

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from segcore.data.datasets.catalog import register
from segcore.data.datasets.categories import instance_metadata, load_categories, panoptic_metadata
from segcore.data.datasets.panoptic import register_panoptic
from segcore.data.datasets.semantic import register_semantic

OFFICIAL = "it is made by the official script datasets/prepare_ade20k"
FOLDERS = {"train": "training", "val": "validation"}


def register_ade20k(root: str) -> None:
    """``ade20k_{panoptic,instance}_{train,val}``: 150 classes, of which 100 are things."""
    ade = f"{root}/ADEChallengeData2016"
    categories = load_categories("ade20k_150")
    for split, folder in FOLDERS.items():
        images = f"{ade}/images/{folder}"
        instances_json = f"{ade}/ade20k_instance_{split}.json"
        panoptic = f"{ade}/ade20k_panoptic_{split}"
        semantic_maps = f"{ade}/annotations_detectron2/{folder}"
        with_instances = f"of {ade}/annotations_instance, a download of its own"
        preparation = {
            f"{panoptic}.json": f"{OFFICIAL}_pan_seg.py {with_instances}",
            panoptic: f"{OFFICIAL}_pan_seg.py {with_instances}",
            semantic_maps: f"{OFFICIAL}_sem_seg.py of {ade}/annotations",
        }
        register_panoptic(
            f"ade20k_panoptic_{split}",
            categories,
            image_root=images,
            panoptic_json=f"{panoptic}.json",
            panoptic_root=panoptic,
            sem_seg_root=semantic_maps,
            instances_json=instances_json,
            preparation=preparation,
            evaluator_type="ade20k_panoptic_seg",
        )
        name = f"ade20k_instance_{split}"
        register(
            name,
            partial(load_coco_json, instances_json, images, name),
            needs={
                images: "photos",
                instances_json: "instance annotation in COCO's format; "
                f"{OFFICIAL}_ins_seg.py {with_instances}",
            },
            evaluator_type="coco",
            image_root=images,
            json_file=instances_json,
            **instance_metadata(categories),
        )
        # Detectron2 registers paths and names alone.
        semantic = MetadataCatalog.get(f"ade20k_sem_seg_{split}")
        if semantic.get("preparation") is None:
            semantic.preparation = {semantic_maps: preparation[semantic_maps]}
        if semantic.get("stuff_colors") is None:
            semantic.stuff_colors = panoptic_metadata(categories)["stuff_colors"]


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
