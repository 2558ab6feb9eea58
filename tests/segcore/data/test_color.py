"""SSD's color distortion: draws, arithmetic, formats."""

import random

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T

from segcore.data.mappers.color import RandomSSDColor, SSDColorTransform


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)


def truncated(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def test_nothing_drawn_nothing_changed(image):
    assert np.array_equal(SSDColorTransform().apply_image(image), image)


def test_brightness_and_contrast(image):
    floats = image.astype(np.float32)
    brighter = SSDColorTransform(brightness=-13.4).apply_image(image)
    assert np.array_equal(brighter, truncated(floats - np.float32(13.4)))
    stronger = SSDColorTransform(contrast=1.37).apply_image(image)
    assert np.array_equal(stronger, truncated(floats * np.float32(1.37)))


@pytest.mark.parametrize("hue", [-18, 0, 17])
def test_hue_wraps(image, hue):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
    hsv[..., 0] = (hsv[..., 0] + hue) % 180
    expected = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    assert np.array_equal(SSDColorTransform(hue=hue).apply_image(image), expected)


def test_saturation(image):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = truncated(hsv[..., 1].astype(np.float32) * np.float32(0.6))
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    assert np.array_equal(SSDColorTransform(saturation=0.6).apply_image(image), expected)


def test_order_of_contrast(image):
    changes = {"contrast": 1.5, "saturation": 0.5, "hue": 9}
    contrast = SSDColorTransform(contrast=1.5)
    rest = SSDColorTransform(saturation=0.5, hue=9)
    first = SSDColorTransform(**changes, contrast_first=True).apply_image(image)
    last = SSDColorTransform(**changes, contrast_first=False).apply_image(image)
    assert np.array_equal(first, rest.apply_image(contrast.apply_image(image)))
    assert np.array_equal(last, contrast.apply_image(rest.apply_image(image)))
    assert not np.array_equal(first, last)


def test_bgr_is_rgb_reversed(image):
    changes = {"brightness": 9.5, "contrast": 0.8, "saturation": 1.4, "hue": -7}
    rgb = SSDColorTransform(**changes).apply_image(image)
    bgr = SSDColorTransform(**changes, image_format="BGR")
    assert np.array_equal(bgr.apply_image(image[..., ::-1].copy())[..., ::-1], rgb)


def test_all_other_than_color_stays(image):
    transform = SSDColorTransform(brightness=20.0, hue=5)
    coords = np.array([[1.0, 2.0]])
    assert np.array_equal(transform.apply_coords(coords), coords)
    assert np.array_equal(transform.apply_segmentation(image), image)


@pytest.mark.parametrize("seed", range(12))
def test_draws_are_those_of_the_official_order(image, seed):
    random.seed(seed)
    drawn = RandomSSDColor("RGB").get_transform(image)
    after = random.random()

    random.seed(seed)
    coin = lambda: random.randrange(2)  # noqa: E731
    brightness = random.uniform(-32, 32) if coin() else None
    contrast_first = coin() == 1
    contrast = random.uniform(0.5, 1.5) if contrast_first and coin() else None
    saturation = random.uniform(0.5, 1.5) if coin() else None
    hue = random.randint(-18, 18) if coin() else None
    if not contrast_first:
        contrast = random.uniform(0.5, 1.5) if coin() else None
    assert drawn == SSDColorTransform(brightness, contrast, saturation, hue, contrast_first, "RGB")
    assert random.random() == after


def test_draws_nothing_from_numpy(image):
    np.random.seed(0)  # noqa: NPY002
    T.AugmentationList([RandomSSDColor()])(T.AugInput(image))
    after = np.random.random_sample()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    assert after == np.random.random_sample()  # noqa: NPY002


def test_refuses_other_formats(image):
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT.*'L'"):
        RandomSSDColor("L")
    with pytest.raises(TypeError, match="float32"):
        RandomSSDColor().get_transform(image.astype(np.float32))
