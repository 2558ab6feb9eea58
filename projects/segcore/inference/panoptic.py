"""Panoptic segmentation from mask classification (MaskFormer, section 3.4)."""

from collections.abc import Collection

from torch import Tensor

from segcore.inference.merging import PanopticMerging
from segcore.inference.segments import PanopticResult


def panoptic_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    thing_ids: Collection[int],
    merging: PanopticMerging,
) -> PanopticResult:
    """Merge the masks of queries, each with its most probable class unless that is "no object".

    Args:
        class_logits: (Q, K+1), the last entry is "no object".
        mask_logits: (Q, H, W).
        thing_ids: the classes whose segments are instances.

    Returns:
        int32 (H, W) of segment ids and "segments_info", see :class:`PanopticMerging`.
    """
    no_object = class_logits.shape[1] - 1
    scores, labels = class_logits.to(mask_logits.dtype).softmax(dim=-1).max(dim=-1)
    kept = (labels != no_object) & merging.candidates(scores, labels, thing_ids)
    return merging(scores[kept], labels[kept], mask_logits[kept].sigmoid_(), thing_ids)
