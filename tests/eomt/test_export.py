"""The network can be exported for images of every size; absolute positions are resampled."""

import torch

from eomt.network import EncoderOnlyMaskTransformer
from eomt.vit import TimmViT
from export_checks import assert_exports

TINY = {"embed_dim": 32, "depth": 3, "num_heads": 2}


class Evaluated(torch.nn.Module):
    """The network as evaluation runs it."""

    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, images):
        return self.transformer(images)[-1]


def test_export():
    backbone = TimmViT("vit_tiny_patch16_224", (96, 96), arguments=TINY)
    network = EncoderOnlyMaskTransformer(
        backbone=backbone, num_classes=4, num_queries=6, num_blocks=2
    )
    assert_exports(Evaluated(network), (96, 128), [(64, 160)])
