"""What an exported program computes: a model from pixels to results, in tensors alone."""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from segcore.errors import ConfigError
from segcore.functional import round_up
from segcore.meta_arch import SegmentationModel, require_segmentation_model

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
        ConfigError: the model does not segment images, or results are wanted of one whose results
            need more than tensors; says why.
    """

    def __init__(
        self, model: SegmentationModel, *, normalize: bool = True, outputs: Outputs = "results"
    ):
        super().__init__()
        if outputs not in get_args(Outputs):
            raise ConfigError(f"outputs: expected one of {get_args(Outputs)}, got {outputs!r}")
        require_segmentation_model(model)
        if outputs == "results" and (reason := model.why_results_not_exported()):
            raise ConfigError(
                f"outputs: the results of {type(model).__name__} cannot be exported, as {reason}: "
                "use the outputs of the network"
            )
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
        return self.model.exported_results(outputs, tuple(images.shape[-2:]), (height, width))


def pad_to_multiple(images: Tensor, divisor: int) -> Tensor:
    """Pad (..., H, W) with zeros at the bottom and right to sides that are multiples."""
    height, width = images.shape[-2:]
    rows, columns = round_up(height, divisor), round_up(width, divisor)
    return F.pad(images, (0, columns - width, 0, rows - height))
