"""COCO panoptic with semantic maps, and COCO-Stuff 10k."""

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from segcore.data.datasets.categories import load_categories
from segcore.data.datasets.panoptic import register_panoptic, semantic_maps_of_panoptic
from segcore.data.datasets.semantic import register_semantic


def register_coco_panoptic_with_sem_seg(root: str) -> None:
    """``coco_2017_{train,val}_panoptic_with_sem_seg``: Detectron2's data set plus semantic maps.

    The maps are made when a data set is first loaded, unless they are there.
    Detectron2's plain ``coco_2017_*_panoptic`` stay as they are.
    """
    coco = f"{root}/coco"
    for split in ("train", "val"):
        annotation = {
            "panoptic_json": f"{coco}/annotations/panoptic_{split}2017.json",
            "panoptic_root": f"{coco}/panoptic_{split}2017",
            "sem_seg_root": f"{coco}/panoptic_semseg_{split}2017",
        }
        maps = semantic_maps_of_panoptic(COCO_CATEGORIES, **annotation)
        register_panoptic(
            f"coco_2017_{split}_panoptic_with_sem_seg",
            COCO_CATEGORIES,
            image_root=f"{coco}/{split}2017",
            instances_json=f"{coco}/annotations/instances_{split}2017.json",
            evaluator_type="coco_panoptic_seg",
            derivations={annotation["sem_seg_root"]: maps},
            **annotation,
        )


def register_coco_stuff_10k(root: str) -> None:
    """``coco_2017_{train,test}_stuff_10k_sem_seg``: 171 classes."""
    folder = f"{root}/coco/coco_stuff_10k"
    categories = load_categories("coco_stuff_171")
    for split in ("train", "test"):
        register_semantic(
            f"coco_2017_{split}_stuff_10k_sem_seg",
            categories,
            image_root=f"{folder}/images_detectron2/{split}",
            sem_seg_root=f"{folder}/annotations_detectron2/{split}",
            stuff_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(categories)},
        )
