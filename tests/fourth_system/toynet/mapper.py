"""Training without augmentation; the same size in evaluation and prediction."""

from detectron2.config import CfgNode
from detectron2.data import transforms as T

from segcore.data.mappers import register_mapper
from segcore.data.mappers.lsj import CocoPanopticLSJ


def squeeze(cfg: CfgNode) -> T.Augmentation:
    """Squeeze photos into a square of ``INPUT.IMAGE_SIZE`` pixels."""
    return T.Resize((cfg.INPUT.IMAGE_SIZE, cfg.INPUT.IMAGE_SIZE))


@register_mapper("toynet_squeezed", test_resize=squeeze)
class SqueezingMapper(CocoPanopticLSJ):
    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {**super().from_config(cfg), "augmentations": [squeeze(cfg)]}
