import pytest
import torch

from segcore.inference import semantic, semantic_inference


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
