"""The mappers of Panoptic SegFormer on a drawn photo."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_segformer.mapper import PanopticSegFormerMapper
from segcore.config import add_segcore_config
from segcore.data.mappers import build_test_mapper, build_train_mapper
from segcore.data.mappers.opencv_resize import OpenCVResizeTransform
from segcore.errors import ImageError

SIZE = HEIGHT, WIDTH = 40, 61
SKY, CAR, CROWD = 9, 70000, 300


@pytest.fixture
def record(tmp_path):
    """Sky, a car with a box larger than its pixels, a crowd at the bottom."""
    ids = np.full(SIZE, SKY, dtype=np.int32)
    ids[10:20, 5:15] = CAR
    ids[30:] = CROWD
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(id2rgb(ids)).save(tmp_path / "ids.png")
    return {
        "file_name": str(tmp_path / "photo.png"),
        "pan_seg_file_name": str(tmp_path / "ids.png"),
        "image_id": 7,
        "segments_info": [
            {"id": SKY, "category_id": 3, "bbox": [0, 0, 61, 30], "area": 1730, "iscrowd": 0},
            {"id": CAR, "category_id": 1, "bbox": [4, 10, 11.5, 10], "area": 100},
            {"id": CROWD, "category_id": 2, "bbox": [0, 30, 61, 10], "area": 610, "iscrowd": 1},
        ],
    }


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_segcore_config(cfg)
    cfg.INPUT.DATASET_MAPPER_NAME = "panoptic_segformer"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (32, 48, 64), 90
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 50, 70
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute_range", [16, 24]
    cfg.INPUT.CROP.RESIZE_MIN_SIZES = [30, 36]
    return cfg


def mapped(record, *augmentations, image_format="RGB"):
    mapper = PanopticSegFormerMapper(augmentations=augmentations, image_format=image_format)
    return mapper(record)


def resize_to(height, width):
    """Always the same transform, as an augmentation."""
    return OpenCVResizeTransform(*SIZE, height, width)


def boxes_of(sample):
    return sample["instances"].gt_boxes.tensor.tolist()


def test_annotated_boxes_and_masks_without_crowds(record):
    before = copy.deepcopy(record)
    sample = mapped(record)
    assert record == before
    instances = sample["instances"]
    assert instances.gt_classes.tolist() == [3, 1]
    assert boxes_of(sample) == [[0, 0, 61, 30], [4, 10, 15.5, 20]]  # not those of the pixels
    assert instances.gt_masks.dtype == torch.bool and instances.gt_masks.shape == (2, *SIZE)
    assert instances.gt_masks.sum(dim=(1, 2)).tolist() == [1100 + 730 - 100, 100]
    assert sample["image"].shape == (3, *SIZE) and sample["image"].dtype == torch.uint8
    assert (sample["height"], sample["width"], sample["image_id"]) == (40, 61, 7)


def test_channel_order(record):
    rgb, bgr = (mapped(record, image_format=order)["image"] for order in ("RGB", "BGR"))
    assert torch.equal(rgb, bgr.flip(0))


def test_boxes_and_masks_move_with_the_image(record):
    sample = mapped(record, T.RandomFlip(prob=1.0), resize_to(80, 122))
    assert boxes_of(sample)[1] == [2 * (61 - 15.5), 20, 2 * (61 - 4), 40]
    rows, columns = sample["instances"].gt_masks[1].nonzero().unbind(1)
    assert [columns.min(), rows.min(), columns.max(), rows.max()] == [92, 20, 111, 39]


def test_crop_clips_boxes_and_does_not_tighten_them(record):
    # Within the car's box, but right of its pixels.
    sample = mapped(record, T.CropTransform(15, 12, 20, 4))
    assert sample["instances"].gt_classes.tolist() == [3, 1]
    assert boxes_of(sample) == [[0, 0, 20, 4], [0, 0, 0.5, 4]]
    assert sample["instances"].gt_masks.sum(dim=(1, 2)).tolist() == [80, 0]


def test_objects_outside_of_the_crop_are_dropped(record):
    sample = mapped(record, T.CropTransform(20, 0, 20, 20))
    assert sample["instances"].gt_classes.tolist() == [3]
    sample = mapped(record, T.CropTransform(20, 32, 20, 4))  # nothing but the crowd
    instances = sample["instances"]
    assert len(instances) == 0 and instances.gt_masks.shape == (0, 4, 20)
    assert instances.gt_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"area": 0},
        {"bbox": [5, 10, 0.9, 10]},
        {"bbox": [5, 10, 10, 0]},
        {"bbox": [61, 10, 10, 10]},
        {"bbox": [-20, 10, 20, 10]},
        {"iscrowd": 1},
    ],
)
def test_degenerate_annotations_are_dropped(record, change):
    record["segments_info"][1] |= change
    assert mapped(record)["instances"].gt_classes.tolist() == [3]


def test_boxes_beyond_the_photo_are_clipped(record):
    record["segments_info"][1]["bbox"] = [-5, 35, 70, 10]
    assert boxes_of(mapped(record))[1] == [0, 35, 61, 40]


def test_boxes_of_pixels_where_none_is_annotated(record):
    for segment in record["segments_info"]:
        del segment["bbox"]
    record["segments_info"][0].pop("area")
    record["segments_info"].append({"id": 5, "category_id": 0})  # without a pixel
    assert boxes_of(mapped(record)) == [[0, 0, 61, 30], [5, 10, 15, 20]]


def test_photo_without_annotation(record):
    record["segments_info"] = []
    instances = mapped(record, T.RandomFlip(prob=1.0))["instances"]
    assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("bbox", [[1, 2, 3], ["a", 1, 2, 3], 7])
def test_bad_box_is_named(record, bbox):
    record["segments_info"][1]["bbox"] = bbox
    with pytest.raises(ValueError, match=r"segment 70000 of .*photo.png: bbox: expected four"):
        mapped(record)


def test_needs_panoptic_annotation(record):
    del record["segments_info"]
    with pytest.raises(KeyError, match=r"needs segments_info of .*photo.png"):
        mapped(record)


def test_max_pixels_of_the_config(cfg, record):
    cfg.INPUT.MAX_PIXELS = HEIGHT * WIDTH - 1
    for build in (build_train_mapper, build_test_mapper):
        with pytest.raises(ImageError, match=r"INPUT\.MAX_PIXELS"):
            build(cfg)(record)


def test_sizes_from_the_config(cfg, record):
    mapper = build_train_mapper(cfg)
    np.random.seed(0)  # noqa: NPY002 the mappers draw from the global stream
    samples = [mapper(record) for _ in range(60)]
    short_edges = set()
    for sample in samples:
        height, width = sample["image"].shape[1:]
        assert max(height, width) <= 90
        if max(height, width) < 90:
            short_edges.add(min(height, width))
        instances = sample["instances"]
        assert instances.image_size == (height, width)
        assert instances.gt_masks.shape[1:] == (height, width)
        boxes = instances.gt_boxes.tensor
        assert (boxes[:, :2] < boxes[:, 2:]).all() and (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert short_edges == {32, 48, 64}
    # About half of them are crops, which have other aspect ratios; half of them are mirrored.
    whole = [
        sample
        for sample in samples
        if tuple(sample["image"].shape[1:]) in {(32, 49), (48, 73), (59, 90)}
    ]
    assert 15 <= len(whole) <= 45
    mirrored = [boxes_of(sample)[1][0] > sample["image"].shape[2] / 2 for sample in whole]
    assert 0 < sum(mirrored) < len(mirrored)


def test_flip_and_crop_can_be_switched_off(cfg, record):
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (40, 40), "range"
    mapper = build_train_mapper(cfg)
    plain = mapped(record, image_format=cfg.INPUT.FORMAT)["image"]
    assert all(torch.equal(mapper(record)["image"], plain) for _ in range(5))


def test_same_seed_same_sample(cfg, record):
    samples = []
    for _ in range(2):
        np.random.seed(3)  # noqa: NPY002
        samples.append(build_train_mapper(cfg)(record))
    assert torch.equal(samples[0]["image"], samples[1]["image"])
    assert boxes_of(samples[0]) == boxes_of(samples[1])


def test_test_mapper(cfg, record):
    photo = mapped(record)["image"].permute(1, 2, 0).numpy()
    cfg.INPUT.FORMAT = "RGB"
    sample = build_test_mapper(cfg)(record)
    expected = OpenCVResizeTransform(*SIZE, 46, 70).apply_image(photo)  # 70 / 61 < 50 / 40
    assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), expected)
    assert (sample["height"], sample["width"]) == SIZE
    assert "instances" not in sample
