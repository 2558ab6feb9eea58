import torch

from segcore.ops import take


def test_take():
    rows = torch.arange(12.0).view(2, 3, 2)
    taken = take(rows, torch.tensor([[2, 2], [0, 1]]))
    assert taken.tolist() == [[[4, 5], [4, 5]], [[6, 7], [8, 9]]]
    assert take(rows[..., 0], torch.tensor([[1], [2]])).tolist() == [[2], [10]]
    assert take(rows, torch.empty(2, 0, dtype=torch.int64)).shape == (2, 0, 2)
    assert torch.equal(take(rows, torch.tensor([[[2], [0]], [[1], [1]]]))[1, 0, 0], rows[1, 1])
