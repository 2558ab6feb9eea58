"""Panoptic results as the cases hold them."""

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

CATEGORY_IDS = np.array([category["id"] for category in COCO_CATEGORIES])


def official_maps(panoptic, segments) -> tuple[np.ndarray, np.ndarray]:
    """Category id and number of the thing at each pixel, 0 for void and stuff."""
    categories = [0, *(CATEGORY_IDS[segment["category_id"]] for segment in segments)]
    is_thing = [0, *(segment["isthing"] for segment in segments)]
    numbers = np.cumsum(is_thing) * is_thing
    return np.array(categories)[panoptic], numbers[panoptic]
