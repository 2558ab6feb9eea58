"""Semantic segmentation from mask classification (MaskFormer, section 3.4)."""

from torch import Tensor

# Rows of pixels are merged in blocks of about this many pixels: bounds the temporary memory.
PIXELS_PER_CHUNK = 1 << 16


def semantic_inference(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Score of each class at each pixel: the sum over queries of class times mask probability.

    Args:
        class_logits: (Q, K+1), the last entry is "no object".
        mask_logits: (Q, H, W).

    Returns:
        (K, H, W) in the type of ``mask_logits``. Not a probability: it may exceed 1.
    """
    class_probabilities = class_logits.to(mask_logits.dtype).softmax(dim=-1)[:, :-1].T
    _, height, width = mask_logits.shape
    scores = mask_logits.new_empty((len(class_probabilities), height, width))
    rows = max(1, PIXELS_PER_CHUNK // max(1, width))
    for source, target in zip(mask_logits.split(rows, 1), scores.split(rows, 1), strict=True):
        merged = class_probabilities @ source.sigmoid().flatten(1)
        target.copy_(merged.unflatten(1, target.shape[1:]))
    return scores
