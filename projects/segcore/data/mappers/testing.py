"""Mapper of segmentation for tests: the photo, resized, without its annotation."""

from typing import Any

from detectron2.config import CfgNode, configurable

from segcore.data.images import MAX_PIXELS
from segcore.data.mappers.pixels import PixelTransform
from segcore.data.mappers.reading import read_photo
from segcore.errors import ImageError
from segcore.text import printable


class TestMapper:
    """Reads and resizes the photo of a dataset dict, as Detectron2's ``DatasetMapper`` does.

    The returned dict has "image" ((3, H, W) uint8 in the image format) and the given entries,
    without "annotations" and "sem_seg_file_name"; "height" and "width" are those of the photo as
    read. The given dict stays as it is.

    Args:
        pixels: the photo as read -> "image", as prediction applies it to photos of no data set.
        image_format: as :func:`segcore.data.images.read_image` takes it.
        max_pixels: photos with more are refused.

    Raises:
        ImageError: the photo is missing, unreadable, refused, or nothing is left of it.
        SizeMismatchError: the photo is not of the size that the dict says.
    """

    __test__ = False  # no test of pytest

    @configurable
    def __init__(
        self,
        *,
        pixels: PixelTransform,
        image_format: str,
        max_pixels: int = MAX_PIXELS,
    ):
        self.pixels = pixels
        self.image_format = image_format
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"image_format": cfg.INPUT.FORMAT, "max_pixels": cfg.INPUT.MAX_PIXELS}

    def __call__(self, dataset_dict: dict) -> dict:
        sample = dict(dataset_dict)
        photo = read_photo(sample, self.image_format, self.max_pixels)
        try:
            sample["image"] = self.pixels(photo)
        except ImageError as error:  # of pixels alone, which do not know their file
            raise ImageError(f"{printable(sample['file_name'])}: {error}") from error
        for key in ("annotations", "sem_seg_file_name"):
            sample.pop(key, None)
        return sample
