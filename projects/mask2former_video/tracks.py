"""Tracks: a class, a score and a mask in every frame of a video."""

from collections.abc import Callable, Sequence
from typing import Any

import pycocotools.mask as mask_util
import torch
from torch import Tensor

from segcore.inference import resize_mask_logits

RunLengths = dict[str, Any]
# Mask logits (n, T, h, w) -> COCO's run lengths, of each mask a list of T.
EncodeMasks = Callable[[Tensor], list[list[RunLengths]]]


def best_pairs(probabilities: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the most probable pairs of a track and a class; a track may have several.

    Args:
        probabilities: (N, K), without "no object".
        topk: number of pairs; all of them where there are fewer.

    Returns:
        Scores, tracks and classes, (topk,) each, by descending score; of ties the first pair first.
    """
    scores, pairs = probabilities.flatten().sort(descending=True, stable=True)
    scores, pairs = scores[:topk], pairs[:topk]
    num_classes = probabilities.shape[1]
    return scores, pairs // num_classes, pairs % num_classes


def encode_frames(mask_logits: Tensor, sizes: Sequence[tuple[int, int]]) -> list[list[RunLengths]]:
    """Resize masks frame by frame and encode what is above 0.

    Args:
        mask_logits: (n, T, h, w), as the network gives them.
        sizes: padded, image and output size, see :func:`segcore.inference.resize_mask_logits`.

    Returns:
        Of each mask T of COCO's compressed run lengths.
    """
    frames = []
    for logits in mask_logits.unbind(1):
        masks = resize_mask_logits(logits, *sizes) > 0
        # COCO's order is by column: (n, W, H) in memory.
        columns = masks.transpose(1, 2).contiguous().cpu().numpy().view("uint8")
        frames.append(mask_util.encode(columns.T) if len(masks) else [])
    return [list(track) for track in zip(*frames, strict=True)]


class TrackMasks(Sequence[Tensor]):
    """Masks (T, H, W) of tracks, bool on the CPU: kept as run lengths, decoded when asked for.

    Attributes:
        run_lengths: of each track T of COCO's compressed run lengths.
    """

    def __init__(self, run_lengths: Sequence[Sequence[RunLengths]]):
        self.run_lengths = run_lengths

    def __len__(self) -> int:
        return len(self.run_lengths)

    def __getitem__(self, index: int) -> Tensor:
        columns = mask_util.decode(list(self.run_lengths[index])).T
        return torch.from_numpy(columns).transpose(1, 2).bool()
