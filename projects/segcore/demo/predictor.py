"""A model and its classes, ready for photos."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor

from segcore.checkpoint import LoadReport, SafeCheckpointer, class_metadata, use_class_metadata
from segcore.data.mappers.augmentation import resize_for_test
from segcore.data.own_data import setup_own_data
from segcore.errors import ImageError, UserError
from segcore.inference import QueryAttention
from segcore.visualization import categories_of

CHECKPOINT_CLASSES = "classes_of_the_checkpoint"


class DemoError(UserError, ValueError):
    """What was asked cannot be shown with this model or checkpoint; says why."""


class PhotoPredictor:
    """Detectron2's ``DefaultPredictor`` on the safe way to weights, with the right class names.

    Classes are those stored in the checkpoint; where it has none (as official files), those of the
    config's data set. Own data need not be there if the checkpoint has its classes.

    Args:
        cfg: not frozen or frozen; left as it is.
        weights: file or Detectron2 URL; "" for what ``MODEL.WEIGHTS`` says.

    Raises:
        DemoError: no weights, or they lack parameters of the model, so results would be random.
    """

    def __init__(self, cfg: CfgNode, weights: str = ""):
        cfg = cfg.clone()
        cfg.defrost()
        weights = weights or cfg.MODEL.WEIGHTS
        if not weights:
            raise DemoError("no weights: give --weights, or MODEL.WEIGHTS in the config")
        cfg.MODEL.WEIGHTS = ""  # the stock predictor would load them in an unsafe way
        stored = class_metadata(weights)
        if stored is not None:
            use_class_metadata(cfg, stored, CHECKPOINT_CLASSES)
        else:
            setup_own_data(cfg, quick=True)
        self.categories = categories_of(
            MetadataCatalog.get(cfg.DATASETS.TRAIN[0]), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        )
        self.predictor = DefaultPredictor(cfg)
        self.predictor.aug = resize_for_test(cfg)
        checkpointer = SafeCheckpointer(self.predictor.model)
        checkpointer.load(weights)
        _require_all_parameters(self.predictor.model, checkpointer.report)

    def __call__(self, photo: np.ndarray) -> dict[str, Any]:
        """Predict one photo.

        Args:
            photo: (H, W, 3) uint8, BGR, of any size.

        Returns:
            Detectron2's results on the CPU, with those of "panoptic_seg" (ids (H, W),
            segments_info), "instances", "sem_seg" (K, H, W) that the model gives.
        """
        return {name: _to_cpu(result) for name, result in self.predictor(photo).items()}

    def predict_compact(self, photo: np.ndarray) -> dict[str, Any]:
        """Predict one photo with bounded memory.

        Args:
            photo: (H, W, 3) uint8, BGR, of any size.

        Returns:
            on the CPU, with those that the model gives of "panoptic_seg" as above,
            "semantic_map" (H, W) integer classes, and "instances" with pred_masks_rle.
        """
        with torch.no_grad():
            return self.predictor.model.predict_compact([self._inputs(photo)])[0]

    def require_focus(self) -> None:
        """Make sure that :meth:`focus` can be asked.

        Raises:
            DemoError: the backbone keeps all of an image.
        """
        backbone = self.predictor.model.backbone
        if not hasattr(backbone, "focus"):
            raise DemoError(
                "focus: expected a model whose backbone chooses tokens, such as AutoFocusFormer, "
                f"got {type(backbone).__name__}"
            )

    def focus(self, photo: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Where the tokens of each stage of the backbone are on a photo.

        Args:
            photo: (H, W, 3) uint8, BGR, of any size.

        Returns:
            On the CPU, of each stage the positions (N, 2) of its tokens, as (x, y) in pixels of the
            photo, and their importance (N,) in (0, 1), None where it decides nothing. Includes
            tokens of the padding, outside of the photo.

        Raises:
            DemoError: the backbone keeps all of an image.
        """
        self.require_focus()
        model, inputs = self.predictor.model, self._inputs(photo)
        height, width = inputs["image"].shape[-2:]
        scale = torch.tensor([photo.shape[1] / width, photo.shape[0] / height])
        images = model.preprocess_images([inputs]).tensor
        return [
            (positions[0].cpu() * scale, None if importance is None else importance[0].cpu())
            for positions, importance in model.backbone.focus(images)
        ]

    def require_attention(self, queries: Sequence[int] = ()) -> None:
        """Make sure that :meth:`attention` can be asked.

        Raises:
            DemoError: the model does not tell, or has no query of such a number.
        """
        model = self.predictor.model
        if not hasattr(model, "attention"):
            raise DemoError(
                "attention: expected a model that shows that of its mask decoders, such as "
                f"PanopticSegFormer, got {type(model).__name__}"
            )
        outside = [number for number in queries if not 0 <= number < model.num_queries]
        if outside:
            raise DemoError(
                f"attention: expected numbers of queries in [0, {model.num_queries}), got {outside}"
            )

    def attention(self, photo: np.ndarray, queries: Sequence[int] = ()) -> list[QueryAttention]:
        """What queries of the mask decoders attend to on a photo, on the CPU.

        Args:
            photo: (H, W, 3) uint8, BGR, of any size.
            queries: numbers of queries; none for those of the best segments, if there are any.

        Raises:
            DemoError: see :meth:`require_attention`.
        """
        self.require_attention(queries)
        return self.predictor.model.attention(self._inputs(photo), queries)

    def _inputs(self, photo: np.ndarray) -> dict[str, Any]:
        """The photo as the model takes it, at the size of the config."""
        rgb = self.predictor.input_format == "RGB"
        pixels = photo[:, :, ::-1] if rgb else photo
        transform = self.predictor.aug.get_transform(pixels)
        if min(getattr(transform, "new_h", 1), getattr(transform, "new_w", 1)) < 1:
            raise ImageError(
                f"a photo of {photo.shape[1]}x{photo.shape[0]} pixels is too narrow: resized to "
                f"INPUT.MAX_SIZE_TEST it has {transform.new_w}x{transform.new_h}"
            )
        pixels = transform.apply_image(pixels)
        image = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return {"image": image, "height": photo.shape[0], "width": photo.shape[1]}


def _to_cpu(result: Any) -> Any:
    return (result[0].cpu(), result[1]) if isinstance(result, tuple) else result.to("cpu")


def _require_all_parameters(model: torch.nn.Module, report: LoadReport) -> None:
    parameters = dict(model.named_parameters())
    fresh = [name for name in report.fresh() if name in parameters]
    if fresh:
        raise DemoError(
            f"the checkpoint lacks parameters of the model, or has them in another shape, so that "
            f"predictions would be random: does it belong to this config?\n{report.table()}"
        )
