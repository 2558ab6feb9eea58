import pytest
import torch
from torch import Tensor

from segcore.inference import semantic, semantic_inference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sum_over_masks(monkeypatch, dtype):
    torch.manual_seed(0)
    weights, logits = torch.rand(3, 5, dtype=dtype), torch.randn(5, 7, 6, dtype=dtype)
    expected = torch.einsum("cq,qhw->chw", weights, logits.sigmoid())
    for pixels in (1, 13, 1 << 20):
        monkeypatch.setattr(semantic, "PIXELS_PER_CHUNK", pixels)
        actual = semantic_inference(weights, logits, Tensor.sigmoid)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected)


def test_no_mask():
    scores = semantic_inference(torch.zeros(3, 0), torch.zeros(0, 7, 6), Tensor.sigmoid)
    assert torch.equal(scores, torch.zeros(3, 7, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_above_one_count_as_one(dtype):
    torch.manual_seed(0)
    masks = (1.5 * torch.rand(4, 7, 6)).to(dtype)
    weights = torch.rand(5, 4).to(dtype)
    expected = torch.einsum("cn,nhw->chw", weights.float(), masks.float().clamp(max=1))
    actual = semantic_inference(weights, masks, lambda values: values)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, atol=4e-3, rtol=0)
