"""AutoFocusFormer for the decoders of other networks, which take maps."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor

from autofocusformer.backbone import PATCH, AutoFocusFormer
from autofocusformer.interpolation import interpolate, nearest_tokens
from autofocusformer.tokens import Tokens, grid_positions


@BACKBONE_REGISTRY.register()
class AutoFocusFormerGrid(AutoFocusFormer):
    """AutoFocusFormer whose tokens are interpolated to maps "res2" up to "res5" of strides 4 to 32.

    Arguments, parameters and configuration (``MODEL.AFF``) are those of :class:`AutoFocusFormer`.
    """

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return {
            name: ShapeSpec(channels=shape.channels, stride=shape.stride)
            for name, shape in super().output_shape().items()
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Image batch (B, in_channels, height, width) -> feature name: (B, C, H, W), with sides
        of the image over the stride, rounded up."""
        shapes = self.output_shape()
        return {
            name: to_map(tokens, shapes[name].stride)
            for name, tokens in super().forward(images).items()
        }


def to_map(tokens: Tokens, stride: int) -> Tensor:
    """Interpolate tokens at the centers of squares of ``stride`` pixels: (B, C, H, W)."""
    if stride == PATCH:
        return tokens.map()  # the first stage has a token at each center
    cells = stride // PATCH
    size = tuple(-(-side // cells) for side in tokens.canvas)
    centers = (grid_positions(size, tokens.positions.device) + 0.5) * cells - 0.5
    centers = centers.expand(len(tokens.positions), -1, -1)
    features = interpolate(tokens, centers, nearest_tokens(centers, tokens.positions))
    return features.transpose(1, 2).unflatten(2, size).contiguous()
