import math

import pytest
import torch

from segcore.layers import SinePositionEncoding


def test_by_the_formula():
    encoding = SinePositionEncoding(4)((3, 5))
    assert encoding.shape == (1, 8, 3, 5) and encoding.dtype == torch.float32
    for row, column in ((0, 0), (2, 3)):
        y = 2 * math.pi * (row + 1) / (3 + 1e-6)
        x = 2 * math.pi * (column + 1) / (5 + 1e-6)
        expected = [
            f(coordinate / 10000 ** (2 * (j // 2) / 4))
            for coordinate in (y, x)
            for j, f in enumerate((math.sin, math.cos, math.sin, math.cos))
        ]
        torch.testing.assert_close(
            encoding[0, :, row, column], torch.tensor(expected), atol=1e-6, rtol=0
        )


def test_mask_without_padding_changes_nothing():
    encoding = SinePositionEncoding(6)
    mask = torch.zeros(2, 4, 3, dtype=torch.bool)
    expected = encoding((4, 3)).expand(2, -1, -1, -1)
    torch.testing.assert_close(encoding((4, 3), padding_mask=mask), expected)


def test_padding_does_not_count():
    encoding = SinePositionEncoding(6)
    mask = torch.ones(1, 7, 9, dtype=torch.bool)
    mask[:, :4, :3] = False
    padded = encoding((7, 9), padding_mask=mask)
    assert padded.isfinite().all()
    torch.testing.assert_close(padded[:, :, :4, :3], encoding((4, 3)))


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_features: expected an even number"):
        SinePositionEncoding(5)
    with pytest.raises(ValueError, match=r"padding_mask: expected \(B, 2, 3\), got \(1, 3, 2\)"):
        SinePositionEncoding(4)((2, 3), padding_mask=torch.zeros(1, 3, 2, dtype=torch.bool))


def test_offset_by_the_formula():
    """Also in a column of padding, where nothing is counted."""
    mask = torch.zeros(1, 3, 5, dtype=torch.bool)
    mask[..., 4] = True
    encoding = SinePositionEncoding(2, offset=-0.5)((3, 5), padding_mask=mask)
    y = 2 * math.pi * torch.tensor([2.5 / (3 + 1e-6), -0.5 / 1e-6])
    torch.testing.assert_close(encoding[0, 0, 2, 3], y[0].sin())
    count = torch.tensor(0.0)
    padded = (count - 0.5) / (count + 1e-6) * (2 * math.pi)
    assert encoding[0, 0, 2, 4] == padded.sin() and encoding[0, 1, 2, 4] == padded.cos()
