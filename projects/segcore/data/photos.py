"""Photos that callers from Python hand over: files, arrays, tensors, images of Pillow."""

from pathlib import Path

import numpy as np
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image, ImageOps

from segcore.data.images import MAX_PIXELS, read_image
from segcore.errors import ImageError

Photo = np.ndarray | torch.Tensor | Image.Image | str | Path

# Modes of Pillow's images with 8 bits a channel, which become RGB without loss.
PIXEL_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


def read_photo(photo: Photo, image_format: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the pixels of a photo, turned as the EXIF orientation of files and images says.

    Args:
        photo: a file; an array (H, W, 3) uint8 with channels BGR, as OpenCV and Detectron2 have
            them; a tensor (3, H, W) uint8 with channels RGB, as torchvision has them; an image of
            Pillow.
        image_format: of the result, such as "RGB", "BGR", "L".
        max_pixels: files with more are refused.

    Returns:
        (H, W, C) uint8.

    Raises:
        ImageError: the photo cannot be read, or is of another kind.
    """
    if isinstance(photo, str | Path):
        return read_image(photo, image_format, max_pixels)
    if isinstance(photo, Image.Image):
        if photo.mode not in PIXEL_MODES:
            raise ImageError(
                f"image: expected 8 bits a channel, got mode {photo.mode}: give its file"
            )
        return convert_PIL_to_numpy(ImageOps.exif_transpose(photo), image_format)
    bgr = _array(photo)
    if image_format == "BGR":
        return bgr
    return convert_PIL_to_numpy(Image.fromarray(bgr[:, :, ::-1]), image_format)


def _array(photo: np.ndarray | torch.Tensor) -> np.ndarray:
    """Check an array or tensor; return it as an array (H, W, 3), BGR."""
    if isinstance(photo, torch.Tensor):
        if photo.dim() != 3 or len(photo) != 3 or photo.dtype != torch.uint8 or not photo.numel():
            raise ImageError(
                "image: expected a tensor (3, H, W) uint8 with channels RGB, got shape "
                f"{tuple(photo.shape)} of {photo.dtype}"
            )
        return np.ascontiguousarray(photo.cpu().numpy()[::-1].transpose(1, 2, 0))
    if not isinstance(photo, np.ndarray):
        raise ImageError(
            "image: expected a file, an array (H, W, 3) uint8, a tensor (3, H, W) uint8 or an "
            f"image of Pillow, got a {type(photo).__name__}"
        )
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
        raise ImageError(
            "image: expected an array (H, W, 3) uint8 with channels BGR, got shape "
            f"{photo.shape} of {photo.dtype}"
        )
    return photo
