import pytest
import torch

from segcore.inference import semantic, semantic_inference, semantic_scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sum_over_queries(monkeypatch, dtype):
    torch.manual_seed(0)
    class_logits, mask_logits = torch.randn(5, 4), torch.randn(5, 7, 6, dtype=dtype)
    expected = torch.einsum(
        "qc,qhw->chw", class_logits.to(dtype).softmax(1)[:, :3], mask_logits.sigmoid()
    )
    for pixels in (1, 13, 1 << 20):
        monkeypatch.setattr(semantic, "PIXELS_PER_CHUNK", pixels)
        actual = semantic_inference(class_logits, mask_logits)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected)


def test_no_query():
    scores = semantic_inference(torch.zeros(0, 4), torch.zeros(0, 7, 6))
    assert torch.equal(scores, torch.zeros(3, 7, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_masks_with_one_class_each(dtype):
    torch.manual_seed(0)
    masks = (1.5 * torch.rand(4, 7, 6)).to(dtype)
    scores, labels = torch.rand(4), torch.tensor([2, 0, 2, 4])
    weighted = scores[:, None, None] * masks.float().clamp(max=1)
    expected = torch.zeros(5, 7, 6).index_add_(0, labels, weighted)
    actual = semantic_scores(scores, labels, masks, num_classes=5)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, atol=2e-3, rtol=0)


def test_no_mask():
    none = torch.zeros(0)
    scores = semantic_scores(none, none.long(), torch.zeros(0, 7, 6), num_classes=3)
    assert torch.equal(scores, torch.zeros(3, 7, 6))
