"""Data sets with a photo and a map of class ids each."""

from functools import partial

from detectron2.data.datasets import load_sem_seg

from segcore.data.datasets.catalog import register
from segcore.data.datasets.categories import semantic_metadata


def register_semantic(
    name: str,
    categories: list[dict],
    *,
    image_root: str,
    sem_seg_root: str,
    ignore_label: int = 255,
    map_suffix: str = "png",
    **metadata,
) -> None:
    """Register data of which ``<sem_seg_root>/x.<map_suffix>`` belongs to ``<image_root>/x.jpg``.

    Args:
        categories: dicts with name and perhaps color, in the order of the ids in the maps.
    """
    register(
        name,
        partial(load_sem_seg, sem_seg_root, image_root, gt_ext=map_suffix, image_ext="jpg"),
        needs={
            image_root: "photos",
            sem_seg_root: f"maps of contiguous class ids ({map_suffix}), {ignore_label} where "
            f"unlabeled",
        },
        evaluator_type="sem_seg",
        ignore_label=ignore_label,
        image_root=image_root,
        sem_seg_root=sem_seg_root,
        **semantic_metadata(categories),
        **metadata,
    )
