"""One convolution, and the converter of its published weights."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from segcore.checkpoint.convert import State, backbone_of, register_backbone, require_entry

STRIDE = 4


@BACKBONE_REGISTRY.register()
class ToyBackbone(Backbone):
    """Images (N, 3, H, W) -> {"res2": (N, DIM, H / 4, W / 4)}."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec):
        super().__init__()
        self.dim = cfg.MODEL.TOYNET.DIM
        self.patches = nn.Conv2d(3, self.dim, STRIDE, STRIDE)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"res2": self.patches(images).relu()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res2": ShapeSpec(channels=self.dim, stride=STRIDE)}


@register_backbone("toynet")
def from_classifier(state: State) -> dict[str, Any]:
    """Return the backbone of a classifier."""
    require_entry(state, "patches.weight", "a classifier")
    return backbone_of(state, other_parts=("head",))
