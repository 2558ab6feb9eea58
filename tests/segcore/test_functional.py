import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks

from segcore.functional import at_least_float32, bilinear, masks_to_boxes


@pytest.mark.parametrize(
    ("given", "promoted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_at_least_float32(given, promoted):
    assert at_least_float32(torch.zeros(1, dtype=given)).dtype == promoted


def test_bilinear_resizes_each_map():
    maps = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(maps[None], (9, 4), mode="bilinear", align_corners=False)[0]
    assert torch.equal(bilinear(maps, (9, 4)), expected)
    assert bilinear(maps, (5, 7)) is maps


def test_boxes_equal_detectron2():
    torch.manual_seed(0)
    masks = torch.rand(20, 9, 13) > 0.97
    masks[0] = False
    masks[1] = True
    expected = BitMasks(masks).get_bounding_boxes().tensor
    assert torch.equal(masks_to_boxes(masks), expected)
    assert masks_to_boxes(masks[:0]).shape == (0, 4)
