"""The network of a golden case, built from its configuration in neutral words."""

import torch
from torch import Tensor

from eomt.checkpoint_names import to_official
from eomt.network import EncoderOnlyMaskTransformer
from eomt.vit import TimmViT
from parity.golden import Case, fill_value

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_network(config: dict) -> EncoderOnlyMaskTransformer:
    """The network of ``config``, float64, in eval mode, without weights."""
    backbone = TimmViT(
        config["timm_name"],
        tuple(config["image_size"]),
        patch_size=config["patch_size"],
        arguments=config["timm_kwargs"],
    )
    network = EncoderOnlyMaskTransformer(
        backbone=backbone,
        num_classes=config["num_classes"],
        num_queries=config["num_queries"],
        num_blocks=config["num_blocks"],
    )
    network.set_mask_probabilities(config["attn_mask_probs"])
    return network.double().eval()


def normalized_images(case: Case) -> Tensor:
    """The images of a case as the official network sees them, float64."""
    mean, std = (torch.tensor(x, dtype=torch.float32).double().view(3, 1, 1) for x in (MEAN, STD))
    return (torch.from_numpy(case.arrays["image"]).double() / 255 - mean) / std


@torch.no_grad()
def fill_network(network: EncoderOnlyMaskTransformer, *, dinov3: bool) -> None:
    """Give every parameter its golden value; the rows of a fused projection have names of their
    own in DINOv3."""
    for name, parameter in network.named_parameters():
        names = to_official(name, dinov3=dinov3)
        shape = (len(parameter) // len(names), *parameter.shape[1:])
        parameter.copy_(torch.cat([fill_value(official, shape) for official in names]))
