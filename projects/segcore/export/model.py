"""What an exported program computes: a model from pixels to results, in tensors alone."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.errors import ConfigError
from segcore.export.results import instances, panoptic_map, semantic_map
from segcore.functional import round_up
from segcore.meta_arch import SegmentationModel

Outputs = Literal["results", "network"]


class ExportedModel(nn.Module):
    """A model as a function of one tensor.

    Args:
        model: in evaluation mode.
        normalize: take pixels (B, 3, H, W), uint8 or float, in the channel order of INPUT.FORMAT;
            they are normalized, and padded to multiples of its divisor. Else the network's input:
            normalized images whose sides are such multiples.
        outputs: "results": maps at the size of the image; "network": what the network returns.

    Raises:
        ConfigError: results are wanted of a model whose merging is no function of tensors.
    """

    def __init__(
        self, model: SegmentationModel, *, normalize: bool = True, outputs: Outputs = "results"
    ):
        super().__init__()
        if outputs not in get_args(Outputs):
            raise ConfigError(f"outputs: expected one of {get_args(Outputs)}, got {outputs!r}")
        if outputs == "results":
            _check_results(model)
        self.model = model
        self.normalize = normalize
        self.outputs = outputs
        self.fields: tuple[str, ...] = ()
        """Names of the outputs, known once :func:`export_program` has run."""

    @property
    def divisor(self) -> int:
        """What the sides of an image must be multiples of."""
        return 1 if self.normalize else max(self.model.size_divisibility, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> the outputs that :attr:`fields` names."""
        return tuple(self.named(images).values())

    def named(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> the outputs by their names."""
        height, width = images.shape[-2:]
        if self.normalize:
            images = self.model.normalized(images)
            images = pad_to_multiple(images, max(self.model.size_divisibility, 1))
        outputs = self.model.network(images)
        if self.outputs == "network":
            return outputs._asdict()
        return self._results(*outputs, tuple(images.shape[-2:]), (height, width))

    def _results(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        padded_size: tuple[int, int],
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Make the results that the model has switched on, as :class:`ResultMaker` does."""
        maker, results = self.model.result_maker, {}
        probabilities = class_logits.softmax(-1)
        values = None
        if self.model.resize_before_inference:
            mask_logits = _resized(mask_logits, padded_size, size)
            values = mask_logits.sigmoid()
        if maker.semantic_on and values is not None:
            results["semantic_map"] = semantic_map(probabilities, values)
        elif maker.semantic_on:
            scores = torch.einsum("bqk,bqhw->bkhw", probabilities[..., :-1], mask_logits.sigmoid())
            results["semantic_map"] = _resized(scores, padded_size, size).argmax(1)
        if maker.panoptic_on:
            merged = panoptic_map(probabilities, values, maker.thing_ids, maker.merging)
            results |= merged._asdict()
        if maker.instance_on:
            things = maker.thing_ids if maker.panoptic_on else None
            results |= instances(
                probabilities,
                mask_logits,
                values,
                topk=self.model.topk_per_image,
                rating=self.model.rating,
                thing_ids=things,
            )._asdict()
        return results


def pad_to_multiple(images: Tensor, divisor: int) -> Tensor:
    """Pad (..., H, W) with zeros at the bottom and right to sides that are multiples."""
    height, width = images.shape[-2:]
    rows, columns = round_up(height, divisor), round_up(width, divisor)
    return F.pad(images, (0, columns - width, 0, rows - height))


def _resized(maps: Tensor, padded_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    maps = F.interpolate(maps, size=padded_size, mode="bilinear", align_corners=False)
    for dim, side in enumerate(size, -2):
        # A slice would be contiguous or not, two graphs.
        maps = maps.index_select(dim, torch.arange(side, device=maps.device))
    return maps


def _check_results(model: SegmentationModel) -> None:
    """Refuse models whose results need more than tensors, by name and reason."""
    maker, way_out = getattr(model, "result_maker", None), "use the outputs of the network"
    if maker is None:
        reason = "it makes no maps"
    elif maker.panoptic_on and maker.merging.strategy == "mask_wise":
        reason = "mask-wise merging takes one mask after the other, as many as an image has"
    elif not hasattr(model, "resize_before_inference"):
        reason = "its network returns no class and mask logits of queries"
    elif any(
        getattr(type(model), name) is not getattr(SegmentationModel, name)
        for name in ("predict_masks", "preprocess_images")
    ):
        reason = "it pads or cuts its images in a way of its own"
    else:
        return
    raise ConfigError(
        f"outputs: the results of {type(model).__name__} cannot be exported, as {reason}: {way_out}"
    )
