"""Data sets that Detectron2 does not have. Importing this package registers them.

They lie under the folder that the environment variable ``DETECTRON2_DATASETS`` names, as
Detectron2's own do: COCO instances, plain COCO panoptic, ADE20K semantic and Cityscapes.
"""

import detectron2.data.datasets  # noqa: F401 registers those first

from segcore.data.datasets.ade20k import register_ade20k, register_ade20k_full
from segcore.data.datasets.catalog import datasets_root, require_training_files
from segcore.data.datasets.cityscapes import register_cityscapes
from segcore.data.datasets.coco import register_coco_panoptic_with_sem_seg, register_coco_stuff_10k
from segcore.data.datasets.mapillary_vistas import register_mapillary_vistas

__all__ = ["register_all", "require_training_files"]


def register_all(root: str) -> None:
    """Register every data set below ``root``; names that are taken already are left alone."""
    register_coco_panoptic_with_sem_seg(root)
    register_coco_stuff_10k(root)
    register_ade20k(root)
    register_ade20k_full(root)
    register_cityscapes(root)
    register_mapillary_vistas(root)


register_all(datasets_root())
