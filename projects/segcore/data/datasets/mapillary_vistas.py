"""Mapillary Vistas: semantic and panoptic, 65 classes, of which 37 are things."""

from segcore.data.datasets.categories import load_categories
from segcore.data.datasets.panoptic import register_panoptic
from segcore.data.datasets.semantic import register_semantic

FOLDERS = {"train": "training", "val": "validation"}
IGNORE_LABEL = 65


def register_mapillary_vistas(root: str) -> None:
    """``mapillary_vistas_{sem_seg,panoptic}_{train,val}``."""
    categories = load_categories("mapillary_vistas_65")
    for split, name in FOLDERS.items():
        folder = f"{root}/mapillary_vistas/{name}"
        register_semantic(
            f"mapillary_vistas_sem_seg_{split}",
            categories,
            image_root=f"{folder}/images",
            sem_seg_root=f"{folder}/labels",
            ignore_label=IGNORE_LABEL,
        )
        register_panoptic(
            f"mapillary_vistas_panoptic_{split}",
            categories,
            image_root=f"{folder}/images",
            panoptic_json=f"{folder}/panoptic/panoptic_2018.json",
            panoptic_root=f"{folder}/panoptic",
            sem_seg_root=f"{folder}/labels",
            ignore_label=IGNORE_LABEL,
            evaluator_type="mapillary_vistas_panoptic_seg",
        )
