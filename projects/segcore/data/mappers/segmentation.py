"""Instance annotations, polygons or run lengths, under geometric transforms."""

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, PolygonMasks, polygons_to_bitmask
from torch import Tensor

from segcore.data.mappers.reading import check_size
from segcore.functional import masks_to_boxes
from segcore.opencv import cv2

# Flat polygons x0, y0, x1, ... (float64), or a binary mask (H, W) uint8.
Segmentation = list[np.ndarray] | np.ndarray


def transform_annotations(
    sample: dict, transforms: T.TransformList
) -> tuple[list[int], list[Segmentation]]:
    """Take "annotations" out of ``sample``: classes and transformed segmentations, without crowds.

    Raises:
        SizeMismatchError: a run-length encoding is not of the photo's size.
        TypeError: a segmentation is neither polygons nor a run-length encoding.
        ValueError: a polygon has fewer than 3 points.
    """
    annotations = [a for a in sample.pop("annotations") if not a.get("iscrowd", 0)]
    segmentations = [_transform(a.get("segmentation"), sample, transforms) for a in annotations]
    return [a["category_id"] for a in annotations], segmentations


def _transform(segmentation, sample: dict, transforms: T.TransformList) -> Segmentation:
    if isinstance(segmentation, list):
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
            raise ValueError(
                f"annotation of {sample['file_name']}: expected polygons of at least 3 points "
                f"x0, y0, x1, y1, ..., got lengths {[len(polygon) for polygon in segmentation]}"
            )
        # Copies, because transforms work in place; floats, because they would truncate integers.
        polygons = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
        return [polygon.reshape(-1) for polygon in transforms.apply_polygons(polygons)]
    if isinstance(segmentation, dict):
        check_size(segmentation["size"], "run-length encoded annotation", sample)
        mask = transforms.apply_segmentation(mask_util.decode(segmentation))
        return (mask == 1).view(np.uint8)  # FixedSizeCrop pads with 0, or 255 after v0.6
    raise TypeError(
        f"annotation of {sample['file_name']}: expected 'segmentation' to be a list of polygons or "
        f"a COCO run-length encoding (dict), got {type(segmentation).__name__}"
    )


def rasterize(segmentations: list[Segmentation], size: tuple[int, int]) -> Tensor:
    """Masks (n, H, W) uint8; polygons by the rule of COCO."""
    masks = np.empty((len(segmentations), *size), dtype=np.uint8)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        if isinstance(segmentation, list):
            # Column-major as COCO's masks are; OpenCV turns it many times faster than numpy.
            segmentation = cv2.transpose(polygons_to_bitmask(segmentation, *size).T.view(np.uint8))
        mask[:] = segmentation
    return torch.from_numpy(masks)


def bounding_boxes(segmentations: list[Segmentation]) -> Boxes:
    """Boxes (n, 4) of polygons before rasterizing, or of masks; no area where nothing is left."""
    return Boxes.cat([_bounding_box(segmentation) for segmentation in segmentations])


def _bounding_box(segmentation: Segmentation) -> Boxes:
    if isinstance(segmentation, list):
        return PolygonMasks([segmentation]).get_bounding_boxes()
    mask = torch.from_numpy(np.ascontiguousarray(segmentation))
    return Boxes(masks_to_boxes(mask[None].bool()))
