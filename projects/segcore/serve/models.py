"""Models to choose from, and what they predict for a photo before thresholds are applied."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor

from segcore.inference import MaskPrediction
from segcore.inference.merging import PanopticMerging
from segcore.inference.segments import PanopticResult
from segcore.photo_model import PhotoModel, load
from segcore.photo_result import PhotoResult


class Models:
    """Models that are loaded when they are first used, and stay.

    Args:
        sources: of :func:`segcore.load`.
        config: of all that carry none.
        device: of :func:`segcore.load`.
    """

    def __init__(
        self, sources: Sequence[str], config: str | None = None, device: str | None = None
    ):
        self.names = list(sources)
        self._config = config
        self._device = device
        self._loaded: dict[int, PhotoModel] = {}

    def __getitem__(self, index: int) -> PhotoModel:
        if index not in self._loaded:
            source = self.names[index]
            given = (source,) if self._config is None else (self._config, source)
            self._loaded[index] = load(*given, device=self._device)
        return self._loaded[index]


@dataclass(frozen=True)
class Segmentation:
    """What a model predicts for a photo, kept so that thresholds need no second run of the network.

    Args:
        model: that predicts.
        photo: (H, W, 3) uint8, RGB.
        name: of the photo's file.
        masks: on the CPU; None for a model of semantic results alone.
        classes: panoptic form of the semantic result of such a model; else None.
    """

    model: PhotoModel
    photo: np.ndarray
    name: str
    masks: MaskPrediction | None = None
    classes: PanopticResult | None = None

    @classmethod
    def predict(cls, model: PhotoModel, photo: np.ndarray, name: str) -> "Segmentation":
        """Run the network on a photo (H, W, 3) uint8, RGB."""
        predictor = model.predictor
        bgr = photo[:, :, ::-1]
        if has_thresholds(model):
            with torch.no_grad():
                (masks,) = predictor.model.predict_masks([predictor.inputs(bgr)])
            return cls(model, photo, name, masks=masks.to("cpu"))
        labels = predictor.predict_compact(bgr)["semantic_map"]
        return cls(model, photo, name, classes=class_segments(labels))

    @property
    def merging(self) -> PanopticMerging | None:
        """The model's own merging; None where there are no thresholds."""
        return self.model.predictor.model.result_maker.merging if self.masks is not None else None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that are kept."""
        kept = self.classes[0] if self.masks is None else self.masks.masks
        return self.photo.nbytes + kept.nbytes

    def result(self, merging: PanopticMerging | None) -> PhotoResult:
        """Return the panoptic result with these thresholds."""
        panoptic = self.classes
        if self.masks is not None:
            model = self.model.predictor.model
            maker = replace(model.result_maker, merging=merging)
            panoptic = retry_if_cuda_oom(maker.compact_panoptic)(self.masks.to(model.device))
        compact = {"panoptic_seg": panoptic}
        return PhotoResult(self.photo, compact, self.model.categories, Path(self.name))


def has_thresholds(model: PhotoModel) -> bool:
    """Return whether the model merges masks; else its semantic result is shown."""
    maker = getattr(model.predictor.model, "result_maker", None)
    return maker is not None and (maker.panoptic_on or maker.instance_on)


def class_segments(labels: Tensor) -> PanopticResult:
    """Return a map of classes (H, W) as a panoptic result with a segment for each class."""
    present = labels.unique().tolist()
    segments = [{"id": c + 1, "category_id": c, "isthing": False} for c in present]
    return labels.to(torch.int32) + 1, segments
