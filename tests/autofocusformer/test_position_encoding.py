import math

import pytest
import torch

from autofocusformer.position_encoding import TokenPositionEncoding


def test_blocks_of_sines_and_cosines_x_first():
    positions = torch.tensor([[[3.0, 1.0], [6.0, 4.0]]])
    encoding = TokenPositionEncoding(4, temperature=100.0)(positions)
    x, y = 3 / 6 * 2 * math.pi, 1 / 4 * 2 * math.pi
    expected = [f(c / w) for c in (x, y) for f in (math.sin, math.cos) for w in (1, 10)]
    torch.testing.assert_close(encoding[0, 0], torch.tensor(expected), atol=1e-5, rtol=0)


def test_scale_of_the_batch_or_of_the_image():
    positions = torch.tensor([[[2.0, 2.0]], [[4.0, 8.0]]])
    of_batch = TokenPositionEncoding(8)(positions)
    of_image = TokenPositionEncoding(8, per_image=True)(positions)
    assert torch.equal(of_batch[1], of_image[1])
    torch.testing.assert_close(of_image[0], TokenPositionEncoding(8)(positions[:1])[0])
    assert not torch.allclose(of_batch[0], of_image[0])


def test_single_cell():
    encoding = TokenPositionEncoding(8)(torch.zeros(1, 1, 2))
    assert encoding.isfinite().all() and encoding.dtype == torch.float32


def test_odd_number_of_features():
    with pytest.raises(ValueError, match=r"num_features: expected an even number.*got 3"):
        TokenPositionEncoding(3)
