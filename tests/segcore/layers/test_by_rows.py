import torch

from segcore.functional import short_softmax
from segcore.layers.by_rows import ROWS, by_rows


def test_parts_are_put_together():
    x, y = torch.randn(2, 2 * ROWS + 5, 3), torch.randn(1, 2 * ROWS + 5, 3)
    sizes = []

    def add(x, y):
        sizes.append(x.shape[1])
        return (x + y).sum(-1, keepdim=True)

    with torch.no_grad():
        assert torch.equal(by_rows(add, x, y), add(x, y))
    assert max(sizes[:-1]) <= ROWS // 2


def test_at_once_with_gradients_and_for_few_rows():
    x = torch.randn(1, ROWS + 1, 3, requires_grad=True)
    by_rows(lambda part: part[:, : ROWS + 1] * 2, x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2))
    with torch.no_grad():
        assert by_rows(lambda part: part * 2, x[:, :0]).shape == (1, 0, 3)


def test_short_softmax():
    logits = torch.randn(2, 7, 4, 12)
    torch.testing.assert_close(short_softmax(logits), logits.softmax(-1))
    assert short_softmax(logits).is_contiguous()
    weights = torch.randn(2, 7, 4, 12)
    (grad,) = torch.autograd.grad((short_softmax(logits.requires_grad_()) * weights).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weights).sum(), logits)
    assert torch.equal(grad, expected)
    assert short_softmax(torch.zeros(1, 0, 4, 12)).shape == (1, 0, 4, 12)
