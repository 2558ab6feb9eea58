import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T

from segcore.data.mappers.opencv_resize import OpenCVResizeShortestEdge, OpenCVResizeTransform


def pixels(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize("size", [(7, 11), (50, 31), (20, 30), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_bilinear_is_opencvs(size, dtype):
    image = pixels(20, 30, 3, dtype=dtype)
    resized = OpenCVResizeTransform(20, 30, *size).apply_image(image)
    assert resized.dtype == dtype
    assert np.array_equal(resized, cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR))


def test_no_smoothing_when_shrinking():
    image = np.zeros((4, 40), dtype=np.uint8)
    image[:, ::8] = 255  # between the samples of every fourth pixel
    assert not OpenCVResizeTransform(4, 40, 1, 10).apply_image(image).any()
    assert T.ResizeTransform(4, 40, 1, 10).apply_image(image).any()


@pytest.mark.parametrize("new", [3, 7, 10, 13, 29])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_nearest_pixel_is_the_floor(new, dtype):
    labels = np.arange(10, dtype=dtype)[None].repeat(2, axis=0)
    resized = OpenCVResizeTransform(2, 10, 2, new).apply_segmentation(labels)
    assert resized.dtype == dtype
    assert resized[0].tolist() == [i * 10 // new for i in range(new)]


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
def test_channels_stay(shape):
    transform = OpenCVResizeTransform(20, 30, 10, 13)
    for resized in (
        transform.apply_image(pixels(*shape)),
        transform.apply_segmentation(pixels(*shape)),
        transform.apply_image(pixels(*shape)[:, ::-1]),  # as after a flip
    ):
        assert resized.shape == (10, 13, *shape[2:])


def test_boxes_and_inverse():
    transform = OpenCVResizeTransform(20, 30, 40, 15)
    box, resized = np.array([[3.0, 4.0, 30.0, 20.0]]), np.array([[1.5, 8.0, 15.0, 40.0]])
    assert np.array_equal(transform.apply_box(box), resized)
    assert np.array_equal(transform.inverse().apply_box(resized), box)
    assert transform.inverse().apply_image(pixels(40, 15, 3)).shape == (20, 30, 3)


def test_image_of_another_size():
    with pytest.raises(ValueError, match=r"expected an image of 20x30.*\(30, 20, 3\)"):
        OpenCVResizeTransform(20, 30, 40, 15).apply_image(pixels(30, 20, 3))


@pytest.mark.parametrize(
    "size, length, longest, expected",
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 427), 800, 1333, (1199, 800)),
        ((500, 1000), 800, 1333, (667, 1333)),  # 666.5 is rounded up
        ((427, 640), 600, 4200, (600, 899)),
        ((30, 20), 0, 1333, (30, 20)),
        ((1, 5000), 10, 100, (1, 100)),
    ],
)
def test_shortest_edge(size, length, longest, expected):
    transform = OpenCVResizeShortestEdge([length], longest).get_transform(pixels(*size, 3))
    assert transform.apply_image(pixels(*size, 3)).shape == (*expected, 3)


@pytest.mark.parametrize(
    "sampling, lengths", [("choice", {4, 9, 12}), ("range", set(range(4, 13)))]
)
def test_drawn_lengths(sampling, lengths):
    np.random.seed(0)  # noqa: NPY002 augmentations draw from the global stream
    resize = OpenCVResizeShortestEdge([4, 9, 12], 100, sampling)
    drawn = {resize.get_transform(pixels(20, 30)).new_h for _ in range(200)}
    assert drawn == lengths


@pytest.mark.parametrize("arguments", [([], 100), ([4], 100, "uniform")])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"INPUT.MIN_SIZE_TRAIN"):
        OpenCVResizeShortestEdge(*arguments)
