"""Augmentation and targets of the training mappers."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.utils.env import seed_all_rng
from PIL import Image

from eomt.augmentation import (
    ColorJitter,
    RandomCropWithPadding,
    ResizeTransform,
    ScaleJitter,
    fixed_size_crops,
)
from eomt.mapper import MAX_CROPS, CropInstance, CropPanoptic, CropSemantic
from eomt_models import small_cfg

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def record(tmp_path):
    """A photo with segment 1 at the left, crowd 2 at the right, and nothing between."""
    rng = np.random.default_rng(0)
    photo = rng.integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    ids = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    ids[:, :20, 0], ids[:, 40:, 0] = 1, 2
    semantic = np.full((HEIGHT, WIDTH), 255, np.uint8)
    semantic[:, :20] = 1
    for name, array in (("photo", photo), ("ids", ids), ("semantic", semantic)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    square = [0, 0, 20, 0, 20, HEIGHT, 0, HEIGHT]
    return {
        "file_name": str(tmp_path / "photo.png"),
        "height": HEIGHT,
        "width": WIDTH,
        "pan_seg_file_name": str(tmp_path / "ids.png"),
        "sem_seg_file_name": str(tmp_path / "semantic.png"),
        "segments_info": [
            {"id": 1, "category_id": 1},
            {"id": 2, "category_id": 0, "iscrowd": 1},
            {"id": 3, "category_id": 2},  # without a pixel
        ],
        "annotations": [{"category_id": 1, "segmentation": [square]}],
    }


@pytest.fixture
def semantic_data():
    MetadataCatalog.get("eomt_semantic_test").set(ignore_label=255)
    yield "eomt_semantic_test"
    MetadataCatalog.remove("eomt_semantic_test")


@pytest.mark.parametrize("mapper_class", [CropPanoptic, CropInstance, CropSemantic])
def test_crops_have_one_size_and_a_segment(mapper_class, record, semantic_data):
    cfg = small_cfg("DATASETS.TRAIN", (semantic_data,), "INPUT.COLOR_AUG_SSD", True)
    mapper = mapper_class(cfg)
    seed_all_rng(0)
    for _ in range(20):
        before = dict(record)
        sample = mapper(record)
        assert record == before
        assert sample["image"].shape == (3, 64, 64) and sample["image"].dtype == torch.uint8
        instances = sample["instances"]
        assert instances.gt_classes.tolist() == [1]
        assert instances.gt_masks.dtype == torch.bool and instances.gt_masks.shape == (1, 64, 64)
        assert instances.gt_masks.any()
        # Masks lie on the photo, not on the padding.
        padding = (sample["image"] == 0).all(0)
        assert (instances.gt_masks[0] & padding).float().mean() < 0.02


def test_masks_follow_the_image(record, semantic_data):
    """The three mappers agree on the mask of one geometry."""
    cfg = small_cfg("DATASETS.TRAIN", (semantic_data,))
    masks = []
    for mapper_class in (CropPanoptic, CropInstance, CropSemantic):
        seed_all_rng(3)
        masks.append(mapper_class(cfg)(record)["instances"].gt_masks)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])


def test_image_of_crowds_alone_ends(record):
    record["segments_info"] = record["segments_info"][1:2]
    mapper = CropPanoptic(small_cfg())
    calls = []
    augment = mapper.augmentations
    mapper.augmentations = lambda inputs: calls.append(1) or augment(inputs)
    assert len(mapper(record)["instances"]) == 0 and len(calls) == MAX_CROPS


def test_resize_is_that_of_torchvision():
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(37, 53, 3), dtype=np.uint8)
    labels = rng.integers(9, size=(37, 53), dtype=np.int64)
    resize = ResizeTransform(21, 90)
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None], (21, 90), mode="bilinear", antialias=True
    )
    assert np.array_equal(resize.apply_image(image), pixels[0].permute(1, 2, 0).numpy())
    nearest = torch.nn.functional.interpolate(
        torch.from_numpy(labels)[None, None].float(), (21, 90)
    )
    assert np.array_equal(resize.apply_segmentation(labels), nearest[0, 0].numpy())


@pytest.mark.parametrize(
    ("size", "photo", "scale", "expected"),
    [
        ((640, 640), (480, 640), 1.0, (480, 640)),
        ((640, 640), (427, 640), 0.1, (42, 64)),
        ((640, 640), (3, 1000), 0.1, (1, 64)),
        ((512, 1024), (500, 500), 1.0, (512, 512)),
    ],
)
def test_scale_jitter(size, photo, scale, expected):
    transform = ScaleJitter(size, (scale, scale)).get_transform(np.zeros((*photo, 3), np.uint8))
    assert (transform.height, transform.width) == expected


def test_crop_pads_with_black_and_ignore():
    crop = RandomCropWithPadding((4, 6), ignore_label=255)
    image, labels = np.full((9, 3, 3), 7, np.uint8), np.full((9, 3), 2, np.int64)
    seed_all_rng(0)
    tops = set()
    for _ in range(100):
        transform = crop.get_transform(image)
        tops.add(transform.top)
        assert transform.left == 0
    assert tops == set(range(6))
    assert np.array_equal(transform.apply_image(image)[0, :, 0], [7, 7, 7, 0, 0, 0])
    assert np.array_equal(transform.apply_segmentation(labels)[0], [2, 2, 2, 255, 255, 255])


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_color_leaves_geometry_and_follows_the_channels(image_format):
    seed_all_rng(1)
    transform = ColorJitter("RGB").get_transform(np.zeros((2, 2, 3), np.uint8))
    assert transform.steps
    image = np.random.default_rng(0).integers(256, size=(5, 4, 3), dtype=np.uint8)
    expected = transform.apply_image(image)
    assert expected.shape == image.shape and not np.array_equal(expected, image)
    transform.image_format = image_format
    if image_format == "BGR":
        image, expected = image[..., ::-1], expected[..., ::-1]
    assert np.array_equal(transform.apply_image(image), expected)


def test_colors_change_only_where_the_config_says():
    assert not any(isinstance(x, ColorJitter) for x in fixed_size_crops(small_cfg()))
    cfg = small_cfg("INPUT.COLOR_AUG_SSD", True)
    assert isinstance(fixed_size_crops(cfg)[0], ColorJitter)
