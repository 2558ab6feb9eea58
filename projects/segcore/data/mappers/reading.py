"""Photos and annotation pictures of a dataset dict, with the file named in every error."""

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from panopticapi.utils import rgb2id
from torch import Tensor

from segcore.data.images import MAX_PIXELS, read_ids, read_image
from segcore.data.panoptic_format import read_id_colors


def require(dataset_dict: dict, *keys: str) -> None:
    """Raise a KeyError that names the photo and the keys it has, if one of ``keys`` is absent."""
    missing = [key for key in keys if key not in dataset_dict]
    if missing:
        raise KeyError(
            f"the mapper needs {', '.join(missing)} of "
            f"{dataset_dict.get('file_name', 'a photo')}, which has only "
            f"{', '.join(sorted(dataset_dict))}: choose a data set (DATASETS.TRAIN) of the kind "
            f"that INPUT.DATASET_MAPPER_NAME asks for"
        )


def read_photo(dataset_dict: dict, image_format: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The photo (H, W, C) with its EXIF orientation applied; adds its height and width if absent.

    Raises:
        ImageError: the file is missing or refused, see :func:`segcore.data.images.read_image`.
        SizeMismatchError: ``height`` and ``width`` of the dict are not those of the photo.
    """
    require(dataset_dict, "file_name")
    photo = read_image(dataset_dict["file_name"], image_format, max_pixels)
    utils.check_image_size(dataset_dict, photo)
    return photo


def read_semantic_map(path: str, dataset_dict: dict, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Class ids (H, W) of a greyscale picture, 8 or 16 bits, as float64.

    Float64 chooses the rule of resizing: Detectron2 resizes it with torch's "nearest", as the
    published models saw it, and uint8 with Pillow's, which differs by up to a pixel.
    """
    semantic_map, _ = read_ids(path, max_pixels)
    if semantic_map.ndim != 2:
        raise ValueError(
            f"semantic map {path}: expected one channel of class ids, got an array of shape "
            f"{semantic_map.shape}"
        )
    check_size(semantic_map.shape, f"semantic map {path}", dataset_dict)
    return semantic_map.astype(np.float64)


def read_panoptic_map(
    path: str, dataset_dict: dict, transforms: T.TransformList, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """Segment ids (H, W) int32 of a panoptic PNG, after ``transforms``.

    They are applied to the colors, which as uint8 are resized with Pillow's "nearest".
    """
    colors = read_panoptic_colors(path, dataset_dict, max_pixels)
    return torch.from_numpy(rgb2id(transforms.apply_segmentation(colors)))


def read_panoptic_colors(path: str, dataset_dict: dict, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A panoptic PNG as it is: (H, W, 3) uint8."""
    colors = read_id_colors(path, max_pixels)
    check_size(colors.shape[:2], f"panoptic PNG {path}", dataset_dict)
    return colors


def check_size(size: tuple[int, int], what: str, dataset_dict: dict) -> None:
    """Raise SizeMismatchError if ``size`` (H, W) is not that of the photo; ``what`` names it."""
    height, width = size
    if (height, width) != (dataset_dict["height"], dataset_dict["width"]):
        raise utils.SizeMismatchError(
            f"{what} is {width}x{height} pixels, but its photo {dataset_dict['file_name']} is "
            f"{dataset_dict['width']}x{dataset_dict['height']}"
        )
