import pytest
import torch

from segcore.inference.masks import resize_mask_logits
from segcore.inference.windows import ResizedMasks, Window

SIZES = {
    "enlarged": ((20, 34), (80, 135), (79, 131), (240, 401)),
    "reduced": ((50, 67), (200, 268), (190, 261), (60, 90)),
    "image size": ((16, 20), (64, 80), (64, 77), (64, 77)),
    "padded size only": ((16, 20), (64, 80)),
    "one column": ((20, 34), (80, 135), (79, 131), (300, 1)),
    "one row": ((20, 34), (80, 135), (79, 131), (1, 300)),
    "one pixel": ((20, 34), (80, 135), (79, 131), (1, 1)),
    "from one pixel": ((1, 1), (32, 32), (1, 1), (150, 7)),
    "small": ((8, 10), (32, 40), (27, 33), (50, 61)),
    "from small": ((8, 10), (32, 40), (27, 33), (150, 161)),
}


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("name", SIZES)
def test_windows_equal_the_whole(name, dtype):
    size, *sizes = SIZES[name]
    masks = torch.randn(3, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = resize_mask_logits(masks, *sizes)
    resized = ResizedMasks(masks, *sizes)
    assert resized.size == expected.shape[1:]
    covered = torch.zeros(resized.size, dtype=torch.int64)
    for window in resized.windows(bytes_per_pixel=4, limit=4000):
        part = expected[:, window.rows, window.columns]
        assert torch.equal(resized.window(window), part)  # bit by bit
        chosen = torch.tensor([2, 0])
        assert torch.equal(resized.window(window, chosen), part[chosen])
        low, high = resized.bounds(window)
        assert (low <= part.amin((1, 2))).all() and (high >= part.amax((1, 2))).all()
        covered[window] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("size, output", [((10, 10), (1000, 7000)), ((900, 900), (1000, 2))])
def test_windows_hold_few_bytes(size, output):
    resized = ResizedMasks(torch.zeros(1, *size), output)
    windows = list(resized.windows(bytes_per_pixel=100, limit=1 << 20))
    assert len(windows) > 1
    for window in windows:
        height, width = window.size
        assert height * width * 100 <= 1 << 20


def test_no_mask():
    resized = ResizedMasks(torch.zeros(0, 5, 7), (200, 300))
    window = Window(slice(3, 10), slice(0, 300))
    assert len(resized) == 0 and resized.window(window).shape == (0, 7, 300)
    assert resized.bounds(window)[0].shape == (0,)
