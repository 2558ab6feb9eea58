"""Prediction from Python: from a config and weights, or the output of a training, to results."""

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from segcore.requirements import require_detectron2

require_detectron2()

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.modeling import SemanticSegmentor, build_model
from torch import Tensor

import segcore.data.datasets  # noqa: F401 registers them
from segcore import zoo
from segcore.checkpoint import (
    CONFIG_KEY,
    SafeCheckpointer,
    class_metadata,
    last_checkpoint,
    local_file,
    read_checkpoint,
    use_class_metadata,
)
from segcore.checkpoint.transformers import weights_of_folder
from segcore.config import config_from_yaml
from segcore.data.custom_data import setup_custom_data
from segcore.data.mappers import build_test_pixels
from segcore.data.panoptic_format import Category
from segcore.data.photos import Photo, read_photo
from segcore.engine import fit_to_machine, setup_config
from segcore.errors import CheckpointError, ConfigError, ImageError
from segcore.inference.compact import class_dtype
from segcore.inference.tiled_prediction import predict_tiles
from segcore.precision import in_precision
from segcore.text import printable
from segcore.visualization import categories_of

CONFIG_SUFFIXES = {".yaml", ".yml"}
FINAL_CHECKPOINT = "model_final.pth"
CONFIG_OF_RUN = "config.yaml"
_numbers = itertools.count()

BatchFunction = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


class Predictor:
    """Predictor for photos, with the pixels, classes and results of evaluation.

    ::

        predictor = segcore.Predictor("output")                       # folder of a training
        predictor = segcore.Predictor("model_final.pth")              # file with its config
        predictor = segcore.Predictor("configs/x.yaml", "model.pkl")  # file of another program
        predictor = segcore.Predictor("zoo://mask2former/coco/panoptic/swin-tiny")
        panoptic_map, segments = predictor("photo.jpg")["panoptic_seg"]

    Nothing in the files is executed, and every weight of the model must come from them. Classes
    are those stored in the checkpoint; where it has none (as official files), those of the
    config's data set. A predictor may be used by several threads, which take turns on the model.

    Args:
        config: a config (left as it is) or YAML file; or the folder or checkpoint, if it is alone.
        weights: a checkpoint, ``zoo://`` name, Detectron2 URL, or the output folder of a training
            (its last checkpoint); by default ``MODEL.WEIGHTS`` of the config.
        device: "cpu", "cuda", "cuda:1"; by default ``MODEL.DEVICE`` of a config that is given, else
            a GPU; the CPU where there is no GPU.
        options: KEY VALUE pairs that change the config.

    Attributes:
        cfg: the config, as the model was built with it.
        model: in evaluation mode and the precision ``TEST.PRECISION``.
        metadata: the classes, as Detectron2's ``Visualizer`` takes them.
        categories: the classes as COCO panoptic categories, by contiguous id.

    Raises:
        ConfigError: there is no config, or it is wrong.
        CheckpointError: the checkpoint cannot be read, or is not of this config.
    """

    def __init__(
        self,
        config: CfgNode | str | Path | None = None,
        weights: str | Path | None = None,
        *,
        device: str | None = None,
        options: Sequence[str] = (),
    ):
        if weights is None and config is not None and not _is_config(config):
            config, weights = None, config
        cfg, weights = _config_and_weights(config, weights, list(options))
        checkpoint = read_checkpoint(weights)
        if cfg is None:
            cfg = _config_of(checkpoint, weights)
            cfg.merge_from_list(list(options))
            cfg.MODEL.DEVICE = "cuda"
        _choose_device(cfg, device)
        cfg.MODEL.WEIGHTS = str(weights)

        stored = class_metadata(checkpoint)
        if stored is not None:
            use_class_metadata(cfg, stored, f"classes_of_predictor_{next(_numbers)}")
        else:
            setup_custom_data(cfg, quick=True)
        self.cfg = cfg
        self.metadata = _metadata(cfg, weights)
        self.model = build_model(cfg).eval()
        SafeCheckpointer(
            self.model, metadata=self.metadata, complete=not cfg.TEST.ALLOW_MISSING_WEIGHTS
        ).load_checkpoint(checkpoint, str(weights), checkpointables=[])
        self.model = in_precision(self.model, cfg.TEST.PRECISION)
        self._pixels = build_test_pixels(cfg)
        self._lock = threading.Lock()

    @property
    def categories(self) -> list[Category]:
        return categories_of(self.metadata, self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)

    def __call__(self, images: Photo | Iterable[Photo]) -> dict[str, Any] | list[dict[str, Any]]:
        """Predict one photo, or any number of them in batches of ``TEST.IMS_PER_BATCH``.

        Args:
            images: a photo as :func:`read_photo` takes it; or a list, or another iterable, of
                these.

        Returns:
            Detectron2's results on the CPU, at the size of the photo: those of "panoptic_seg"
            (ids (H, W), segments_info), "instances", "sem_seg" (K, H, W) that the model gives;
            from classifiers "class_logits" (K,). A dictionary for one photo, else a list.

        Raises:
            ImageError: a photo cannot be read, or is of another kind.
        """
        return self._each(images, self.model)

    def predict_compact(
        self, images: Photo | Iterable[Photo]
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Predict in bounded memory: class maps and run lengths instead of scores and masks.

        Args:
            images: see :meth:`__call__`.

        Returns:
            For each photo those of "panoptic_seg" as before, "semantic_map" (integer classes
            (H, W)), "instances" (with ``pred_masks_rle`` instead of ``pred_masks``) that the model
            gives.

        Raises:
            ConfigError: the model classifies images.
        """
        if isinstance(self.model, SemanticSegmentor):
            return self._each(images, self._class_maps)
        if not hasattr(self.model, "predict_compact"):
            raise ConfigError(
                "predict_compact: expected a model that segments images, got "
                f"{type(self.model).__name__}"
            )
        return self._each(images, self.model.predict_compact)

    def predict_tiles(self, image: Photo, tile: int = 1024, overlap: int = 128) -> dict[str, Any]:
        """Predict a large photo in tiles, each as a photo of its own, and join their segments.

        Args:
            image: see :meth:`__call__`.
            tile: side of a tile in pixels.
            overlap: least number of pixels that neighboring tiles share, at most half a tile.

        Returns:
            That of :meth:`predict_compact` at the size of the photo, see
            :func:`~segcore.inference.tiled_prediction.predict_tiles`.

        Raises:
            ConfigError: the overlap is not possible, or the model classifies images.
            ImageError: see :meth:`__call__`.
        """
        photo = read_photo(image, "BGR", self.cfg.INPUT.MAX_PIXELS)
        return predict_tiles(photo, self.predict_compact, tile, overlap)

    def predict_video(self, frames: Iterable[Photo]) -> dict[str, Any]:
        """Predict the tracks of a video.

        Args:
            frames: photos of one size, in order, as :meth:`__call__` takes them; read as they are
                needed.

        Returns:
            What ``predict_video`` of the model returns, at the size of the frames.

        Raises:
            ConfigError: the model is one of photos.
            ImageError: there is no frame, or one cannot be read.
        """
        if not hasattr(self.model, "predict_video"):
            raise ConfigError(
                f"predict_video: expected a model of videos, got {type(self.model).__name__}"
            )
        inputs = map(self.inputs, frames)
        first = next(inputs, None)
        if first is None:
            raise ImageError("frames: expected at least one, got none")
        pixels = (frame["image"] for frame in itertools.chain([first], inputs))
        with self._lock:
            return self.model.predict_video(pixels, first["height"], first["width"])

    def _class_maps(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Return what ``predict_compact`` of a model of ours would, for Detectron2's."""
        results = [result["sem_seg"] for result in self.model(batched_inputs)]
        return [
            {"semantic_map": scores.argmax(dim=0).to("cpu", class_dtype(len(scores)))}
            for scores in results
        ]

    def inputs(self, image: Photo) -> dict[str, Any]:
        """Return the model's input as in evaluation: "image" (3, h, w) uint8, "height", "width".

        Raises:
            ImageError: see :meth:`__call__`.
        """
        photo = read_photo(image, self.cfg.INPUT.FORMAT, self.cfg.INPUT.MAX_PIXELS)
        height, width = photo.shape[:2]
        return {"image": self._pixels(photo), "height": height, "width": width}

    def _each(self, images: Photo | Iterable[Photo], predict: BatchFunction) -> Any:
        if isinstance(images, Photo):
            return self._batch([images], predict)[0]
        if not isinstance(images, Iterable) or isinstance(images, bytes):
            raise ImageError(
                "images: expected files, arrays, tensors or Pillow's images, or an iterable of "
                f"these, got a {type(images).__name__}"
            )
        photos = iter(images)
        batches = iter(lambda: list(itertools.islice(photos, self.cfg.TEST.IMS_PER_BATCH)), [])
        return [result for batch in batches for result in self._batch(batch, predict)]

    def _batch(self, images: Sequence[Photo], predict: BatchFunction) -> list[dict[str, Any]]:
        inputs = [self.inputs(image) for image in images]
        with self._lock, torch.no_grad():
            return [
                {name: _to_cpu(result) for name, result in results.items()}
                for results in predict(inputs)
            ]


def _is_config(config: CfgNode | str | Path) -> bool:
    return isinstance(config, CfgNode) or Path(config).suffix in CONFIG_SUFFIXES


def _config_and_weights(
    config: CfgNode | str | Path | None, weights: str | Path | None, options: list[str]
) -> tuple[CfgNode | None, str]:
    """Return the config, if one is given, and the file of the weights."""
    if isinstance(config, CfgNode):
        cfg = config.clone()
        cfg.defrost()
        cfg.merge_from_list(options)
    elif config is not None:
        cfg = setup_config(str(config), options)
    elif str(weights).startswith(zoo.PREFIX):
        model = zoo.find_model(str(weights).removeprefix(zoo.PREFIX))
        cfg = setup_config(str(model.config_file), [*model.options, *options])
    else:
        cfg = None
    if not weights:
        weights = cfg.MODEL.WEIGHTS if cfg is not None else ""
    if not weights:
        raise ConfigError(
            "no weights: give a checkpoint, the output folder of a training, or MODEL.WEIGHTS in "
            "the config"
        )
    if Path(weights).is_dir():
        return cfg, str(_checkpoint_of_folder(Path(weights)))
    return cfg, local_file(weights)


def _checkpoint_of_folder(folder: Path) -> Path:
    path = last_checkpoint(folder) or weights_of_folder(folder) or folder / FINAL_CHECKPOINT
    if not path.is_file():
        raise CheckpointError(
            f"{printable(folder)}: expected the output folder of a training, which has a "
            f"{printable(path.name)}"
        )
    return path


def _config_of(checkpoint: dict[str, Any], path: str) -> CfgNode:
    """Return the config that a checkpoint carries, or that lies beside it."""
    text = checkpoint.get(CONFIG_KEY)
    if isinstance(text, str):
        return config_from_yaml(text, path)
    beside = Path(path).with_name(CONFIG_OF_RUN)
    if beside.is_file() and last_checkpoint(beside.parent):
        return setup_config(str(beside))
    raise ConfigError(
        f"{printable(path)} carries no config, as files of other programs: give the config that it "
        "was trained with, too"
    )


def _metadata(cfg: CfgNode, weights: str) -> Metadata:
    """Return the classes of the config's first data set."""
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        raise ConfigError(
            f"{printable(weights)} has no class names, and the config no data set that has: name "
            "one that is registered as DATASETS.TRAIN, or set DATASETS.PANOPTIC"
        )
    return MetadataCatalog.get(names[0])


def _choose_device(cfg: CfgNode, device: str | None) -> None:
    if device is not None:
        try:
            kind = torch.device(device).type
        except (RuntimeError, TypeError) as error:
            raise ConfigError(
                f"device: expected such as cpu, cuda or cuda:1, got '{printable(device)}'"
            ) from error
        if kind == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device: got '{device}', but PyTorch finds no GPU")
        cfg.MODEL.DEVICE = device
    fit_to_machine(cfg)


def _to_cpu(result: Any) -> Any:
    if isinstance(result, tuple):
        return (result[0].cpu(), *result[1:])
    return result.to("cpu") if hasattr(result, "to") else result
