"""A faster forward pass of Detectron2's ResNet on CPUs."""

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import Tensor, nn

from segcore.layers import onednn
from segcore.layers.convolution import convolve, has_hooks


def backbone_features(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return ``backbone(images)``, {feature name: map}, by the fastest way for the backbone.

    The convolutions of a :class:`ResNet` on a CPU take frozen norm, residual and activation with
    them.

    Args:
        images: (B, C, H, W).
    """
    if type(backbone) is not ResNet or backbone.num_classes is not None or has_hooks(backbone):
        return backbone(images)
    if not onednn.is_usable(images):
        return backbone(images)
    x = _stem(backbone.stem, images)
    features = {"stem": x}
    for name, stage in zip(backbone.stage_names, backbone.stages, strict=True):
        for index, block in enumerate(stage):
            # Only a stage's last map is a feature; a first block's input may be one.
            x = _block(block, x, overwrite=index > 0)
        features[name] = x
    return {name: x for name, x in features.items() if name in backbone._out_features}


def _stem(stem: nn.Module, images: Tensor) -> Tensor:
    if type(stem) is not BasicStem:
        return stem(images)
    return F.max_pool2d(convolve(stem.conv1, images, "relu"), kernel_size=3, stride=2, padding=1)


def _block(block: nn.Module, x: Tensor, overwrite: bool) -> Tensor:
    """Args: overwrite: the memory of ``x`` may be used for the result."""
    if type(block) is BottleneckBlock:
        convolutions = (block.conv1, block.conv2, block.conv3)
    elif type(block) is BasicBlock:
        convolutions = (block.conv1, block.conv2)
    else:
        return block(x)
    out = x
    for convolution in convolutions[:-1]:
        out = convolve(convolution, out, "relu")
    if torch.is_grad_enabled():  # the gradient of the first convolution needs x
        overwrite = False
    if block.shortcut is not None:
        x, overwrite = convolve(block.shortcut, x), True
    return convolve(convolutions[-1], out, "relu", added=x, overwrite_added=overwrite)
