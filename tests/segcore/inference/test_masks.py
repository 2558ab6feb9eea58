import pytest
import torch
import torch.nn.functional as F

from segcore.inference import resize_mask_logits
from segcore.inference.masks import MASKS_PER_CHUNK, mask_areas


@pytest.mark.parametrize("queries", [0, 1, MASKS_PER_CHUNK, MASKS_PER_CHUNK + 3])
def test_two_interpolations_with_a_cut_between(queries):
    torch.manual_seed(0)
    logits = torch.randn(queries, 8, 10)
    resized = resize_mask_logits(logits, (32, 40), (27, 33), (50, 61))
    assert resized.shape == (queries, 50, 61)
    for mask, actual in zip(logits, resized, strict=True):
        padded = F.interpolate(mask[None, None], (32, 40), mode="bilinear", align_corners=False)
        expected = F.interpolate(
            padded[..., :27, :33], (50, 61), mode="bilinear", align_corners=False
        )
        torch.testing.assert_close(actual, expected[0, 0])


def test_sizes_by_default():
    logits = torch.randn(3, 8, 10)
    padded = resize_mask_logits(logits, (32, 40))
    assert padded.shape == (3, 32, 40)
    torch.testing.assert_close(resize_mask_logits(logits, (32, 40), (30, 35)), padded[:, :30, :35])


def test_areas():
    masks = torch.rand(MASKS_PER_CHUNK + 3, 9, 13) > 0.5
    assert mask_areas(masks).tolist() == [int(mask.sum()) for mask in masks]
    assert mask_areas(masks[:0]).shape == (0,)
