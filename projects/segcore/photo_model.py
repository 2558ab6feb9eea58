"""Models for photos by name: three lines from a file to its segments."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from segcore import zoo
from segcore.data.photos import Photo, read_photo
from segcore.errors import ConfigError
from segcore.photo_result import PhotoResult
from segcore.predictor import Predictor
from segcore.text import did_you_mean, printable


def load(
    source: str | Path,
    weights: str | Path | None = None,
    *,
    device: str | None = None,
    precision: str | None = None,
    batch_size: int = 1,
    options: Sequence[str] = (),
) -> "PhotoModel":
    """Load a model that segments photos.

    ::

        model = segcore.load("mask2former/coco/panoptic/swin-tiny")
        result = model("photo.jpg")

    Args:
        source: name of a published model (:func:`segcore.list_models`), downloaded at first use;
            or a config, with ``weights``; or a checkpoint that carries its config; or the output
            folder of a training.
        weights: see :class:`segcore.Predictor`.
        device: see :class:`segcore.Predictor`.
        precision: instead of ``TEST.PRECISION``.
        batch_size: photos of a list that the network takes together, padded to one size.
        options: KEY VALUE pairs that change the config.

    Raises:
        ConfigError: there is no such model, or the config is wrong; the model classifies images.
        CheckpointError: the weights cannot be had, or are not of this config.
    """
    settings = [*options, "TEST.IMS_PER_BATCH", str(batch_size)]
    if precision is not None:
        settings += ["TEST.PRECISION", precision]
    if weights is None:
        source = _published_or_local(source)
    return PhotoModel(Predictor(source, weights, device=device, options=settings))


class PhotoModel:
    """A model called with photos, for :class:`PhotoResult`; several threads may share one.

    Attributes:
        predictor: with the config, the model and its classes.
    """

    def __init__(self, predictor: Predictor):
        model = predictor.model
        if hasattr(model, "predict_video") or not hasattr(model, "predict_compact"):
            raise ConfigError(
                f"expected a model that segments photos, got {type(model).__name__}: "
                "segcore.Predictor takes those of videos and classifiers, too"
            )
        self.predictor = predictor
        self.categories = predictor.categories

    def __call__(
        self, images: Photo | Iterable[Photo], *, tile: int | None = None, overlap: int = 128
    ) -> PhotoResult | list[PhotoResult]:
        """Segment a photo, or each of a list of photos of any sizes.

        Args:
            images: see :func:`segcore.data.photos.read_photo`.
            tile: side in pixels of the tiles that larger photos are predicted in; None for none.
            overlap: least number of pixels that neighboring tiles share.

        Raises:
            ConfigError: the overlap is not from 1 to half of a tile.
            ImageError: a photo cannot be read, or is of another kind.
        """
        if isinstance(images, Photo) or not isinstance(images, Iterable):
            return self([images], tile=tile, overlap=overlap)[0]
        images = list(images)
        photos = [self._read(image) for image in images]
        if tile is None:
            results = self.predictor.predict_compact(photos)
        else:
            results = [self.predictor.predict_tiles(photo, tile, overlap) for photo in photos]
        return [
            PhotoResult(
                photo[:, :, ::-1], result, self.categories, image if _is_path(image) else None
            )
            for image, photo, result in zip(images, photos, results, strict=True)
        ]

    def __repr__(self) -> str:
        cfg = self.predictor.cfg
        classes = len(self.categories)
        return (
            f"PhotoModel({cfg.MODEL.META_ARCHITECTURE}, {classes} classes, on {cfg.MODEL.DEVICE})"
        )

    def _read(self, image: Photo) -> np.ndarray:
        return read_photo(image, "BGR", self.predictor.cfg.INPUT.MAX_PIXELS)


def _is_path(image: Photo) -> bool:
    return isinstance(image, str | Path)


def _published_or_local(source: str | Path) -> str | Path:
    """Return the ``zoo://`` path of a published model, and anything else as it is.

    Raises:
        ConfigError: it is neither a published model nor there.
    """
    if not isinstance(source, str | Path):  # a config
        return source
    name = str(source)
    if name in zoo.published_models():
        return zoo.PREFIX + name
    if not (os.path.exists(name) or "://" in name):
        raise ConfigError(
            f"{printable(name)}: there is no such file or folder, nor a published model of this "
            f"name (segcore.list_models() has them){did_you_mean(name, zoo.list_models(), most=2)}"
        )
    return source
