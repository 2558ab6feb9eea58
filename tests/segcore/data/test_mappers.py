"""Training mappers on drawn photos: what they emit, and what they say about bad input."""

import copy
import random

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from panopticapi.utils import id2rgb
from PIL import Image

from segcore.config import add_segcore_config
from segcore.data.mappers import (
    MAPPERS,
    build_test_mapper,
    build_test_pixels,
    build_train_mapper,
    register_mapper,
)
from segcore.data.mappers.lsj import CocoInstanceLSJ, CocoPanopticLSJ
from segcore.data.mappers.resize_crop import (
    ResizeCropInstance,
    ResizeCropPanoptic,
    ResizeCropSemantic,
)
from segcore.errors import ConfigError, ImageError

SIZE = HEIGHT, WIDTH = 20, 30
BIG_ID = 200 * 256**2 + 3
CAR, ROAD, CROWD, IGNORED = 4, 7, 2, 255
MAPPER_NAMES = [
    "coco_panoptic_lsj",
    "coco_instance_lsj",
    "mask_former_semantic",
    "mask_former_panoptic",
    "mask_former_instance",
]


def boxes_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def polygon(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


@pytest.fixture
def record(tmp_path) -> dict:
    """A photo with a car over the left of a road, a crowd at the bottom, an unlabeled corner."""
    ids = np.full(SIZE, 9, dtype=np.int32)
    ids[2:10, :8] = BIG_ID
    ids[15:, :] = 300
    ids[:2, 28:] = 0
    labels = {9: ROAD, BIG_ID: CAR, 300: CROWD, 0: IGNORED}
    semantic = np.vectorize(labels.get)(ids).astype(np.uint8)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    pictures = {
        "file_name": pixels,
        "pan_seg_file_name": id2rgb(ids),
        "sem_seg_file_name": semantic,
    }
    for key, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / f"{key}.png")
    return {
        **{key: str(tmp_path / f"{key}.png") for key in pictures},
        "image_id": 3,
        "height": HEIGHT,
        "width": WIDTH,
        "segments_info": [
            {"id": 9, "category_id": ROAD, "iscrowd": 0},
            {"id": BIG_ID, "category_id": CAR},
            {"id": 300, "category_id": CROWD, "iscrowd": 1},
        ],
        "annotations": [
            {"category_id": CAR, "iscrowd": 0, "segmentation": polygon(0, 2, 8, 10)},
            {"category_id": CROWD, "iscrowd": 1, "segmentation": polygon(0, 15, 30, 20)},
        ],
    }


def picture(record: dict, key: str) -> np.ndarray:
    return np.asarray(Image.open(record[key]))


def mapper(cls, *augmentations, **arguments):
    if cls in (ResizeCropSemantic, ResizeCropPanoptic):
        arguments.setdefault("ignore_label", IGNORED)
    return cls(augmentations=augmentations, image_format="RGB", **arguments)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_segcore_config(cfg)
    cfg.DATASETS.TRAIN = ("test_mappers_train",)
    MetadataCatalog.get("test_mappers_train").ignore_label = IGNORED
    cfg.INPUT.IMAGE_SIZE = 32
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (16, 24), 64
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [12, 18]
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT.SIZE_DIVISIBILITY = 32
    return cfg


@pytest.mark.parametrize("name", MAPPER_NAMES)
def test_by_name_from_config(cfg, record, name):
    cfg.INPUT.DATASET_MAPPER_NAME = name
    before = copy.deepcopy(record)
    sample = build_train_mapper(cfg)(record)
    assert record == before
    assert sample["image"].shape == (3, 32, 32)
    assert sample["image"].dtype == torch.uint8
    instances = sample["instances"]
    assert instances.image_size == (32, 32)
    assert instances.gt_masks.shape == (len(instances), 32, 32)
    assert instances.gt_classes.dtype == torch.int64
    assert (sample["height"], sample["width"], sample["image_id"]) == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", MAPPER_NAMES)
def test_same_seed_same_sample(cfg, record, name):
    cfg.INPUT.DATASET_MAPPER_NAME = name
    samples = []
    for _ in range(2):
        np.random.seed(5)  # noqa: NPY002 the mappers draw from the global streams
        random.seed(5)
        samples.append(build_train_mapper(cfg)(record))
    assert torch.equal(samples[0]["image"], samples[1]["image"])
    assert torch.equal(samples[0]["instances"].gt_masks, samples[1]["instances"].gt_masks)


@pytest.mark.parametrize("build", [build_train_mapper, build_test_mapper, build_test_pixels])
def test_unknown_name_lists_the_known(cfg, build):
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_panoptic_ljs"
    expected = r"DATASET_MAPPER_NAME: .*mask_former_instance.* did you mean coco_panoptic_lsj"
    with pytest.raises(ConfigError, match=expected):
        build(cfg)


def test_registered_mapper_is_built_by_its_name(cfg, record, monkeypatch):
    monkeypatch.setattr(MAPPERS, "_objects", dict(MAPPERS))

    @register_mapper("mirror", test_resize=lambda cfg: T.RandomFlip(prob=1.0))
    def mirror(cfg):
        return lambda sample: {"image": "mirrored in training"}

    cfg.INPUT.DATASET_MAPPER_NAME = "mirror"
    assert build_train_mapper(cfg)(record) == {"image": "mirrored in training"}
    photo = np.asarray(Image.open(record["file_name"]))
    expected = torch.tensor(photo[:, ::-1].transpose(2, 0, 1).copy())
    cfg.INPUT.FORMAT = "RGB"
    assert torch.equal(build_test_mapper(cfg)(record)["image"], expected)
    assert torch.equal(build_test_pixels(cfg)(photo), expected)


def test_name_of_a_mapper_is_given_once():
    with pytest.raises(ValueError, match="'coco_panoptic_lsj' is registered already"):
        register_mapper("coco_panoptic_lsj")(CocoPanopticLSJ)


def test_mapper_replaces_both_ways_to_test_pixels():
    with pytest.raises(ValueError, match="both of test and test_pixels"):
        register_mapper("half", test=lambda cfg: None)


@pytest.mark.parametrize("datasets", [(), ("no_such_data_set",)])
def test_ignore_label_must_be_known(cfg, datasets):
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    cfg.DATASETS.TRAIN = datasets
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN.*ignore_label"):
        build_train_mapper(cfg)


def test_unknown_flip(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_panoptic_lsj"
    cfg.INPUT.RANDOM_FLIP = "diagonal"
    with pytest.raises(ValueError, match=r"RANDOM_FLIP.*'diagonal'"):
        build_train_mapper(cfg)


def test_panoptic_segments_become_masks(record):
    sample = mapper(CocoPanopticLSJ)(record)
    instances = sample["instances"]
    assert instances.gt_classes.tolist() == [ROAD, CAR]
    assert instances.gt_masks.dtype == torch.bool
    ids = picture(record, "pan_seg_file_name")[..., 0]
    assert np.array_equal(instances.gt_masks[0], ids == 9)
    assert np.array_equal(instances.gt_masks[1], boxes_mask(0, 2, 8, 10))
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 30, 15], [0, 2, 8, 10]]
    assert np.array_equal(sample["image"].permute(1, 2, 0), picture(record, "file_name"))
    assert "pan_seg_file_name" not in sample
    assert sample["segments_info"] == record["segments_info"]


def test_segment_out_of_the_crop_keeps_its_class(record):
    crop = T.CropTransform(20, 0, 10, 10)
    instances = mapper(ResizeCropPanoptic, crop)(record)["instances"]
    assert instances.gt_classes.tolist() == [ROAD, CAR]
    assert instances.gt_masks.flatten(1).sum(1).tolist() == [96, 0]
    boxes = mapper(CocoPanopticLSJ, crop)(record)["instances"].gt_boxes.tensor
    assert boxes[1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("cls", [CocoPanopticLSJ, ResizeCropPanoptic])
def test_crowds_alone_are_no_targets(record, cls):
    record["segments_info"] = record["segments_info"][2:]
    instances = mapper(cls)(record)["instances"]
    assert instances.gt_masks.shape == (0, HEIGHT, WIDTH)
    assert instances.gt_classes.shape == (0,)


def test_flip_moves_image_and_annotation_together(record):
    flipped = mapper(ResizeCropPanoptic, T.RandomFlip(prob=1.0))(record)
    plain = mapper(ResizeCropPanoptic)(record)
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    assert torch.equal(flipped["sem_seg"], plain["sem_seg"].flip(1))
    assert torch.equal(flipped["instances"].gt_masks, plain["instances"].gt_masks.flip(2))


def test_semantic_classes_become_masks(record):
    sample = mapper(ResizeCropSemantic)(record)
    semantic = picture(record, "sem_seg_file_name")
    assert sample["sem_seg"].dtype == torch.int64
    assert np.array_equal(sample["sem_seg"], semantic)
    assert sample["instances"].gt_classes.tolist() == [CROWD, CAR, ROAD]
    for label, mask in zip((CROWD, CAR, ROAD), sample["instances"].gt_masks, strict=True):
        assert np.array_equal(mask, semantic == label)
    assert "sem_seg_file_name" not in sample


def test_semantic_map_of_16_bits(record, tmp_path):
    labels = np.full(SIZE, 65535, dtype=np.uint16)
    labels[3:5] = 846
    record["sem_seg_file_name"] = str(tmp_path / "labels.tif")
    Image.fromarray(labels).save(record["sem_seg_file_name"])
    sample = mapper(ResizeCropSemantic, ignore_label=65535)(record)
    assert sample["instances"].gt_classes.tolist() == [846]
    assert sample["instances"].gt_masks.sum() == 2 * WIDTH


def test_semantic_map_without_any_label(record):
    Image.fromarray(np.full(SIZE, IGNORED, dtype=np.uint8)).save(record["sem_seg_file_name"])
    instances = mapper(ResizeCropSemantic)(record)["instances"]
    assert instances.gt_masks.shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize("cls", [ResizeCropSemantic, ResizeCropPanoptic, ResizeCropInstance])
@pytest.mark.parametrize("size", [40, 25])
def test_padded_or_cut_to_a_square(record, cls, size):
    plain, padded = mapper(cls)(record), mapper(cls, padded_size=size)(record)
    height, width = min(HEIGHT, size), min(WIDTH, size)
    image, masks = padded["image"], padded["instances"].gt_masks
    assert image.shape == (3, size, size)
    assert torch.equal(image[:, :height, :width], plain["image"][:, :height, :width])
    assert (image[:, height:] == 128).all() and (image[:, :, width:] == 128).all()
    assert torch.equal(masks[:, :height, :width], plain["instances"].gt_masks[..., :height, :width])
    assert not masks[:, height:].any() and not masks[:, :, width:].any()
    if "sem_seg" in padded:
        assert (padded["sem_seg"][height:] == IGNORED).all()


@pytest.mark.parametrize("cls", [CocoInstanceLSJ, ResizeCropInstance])
@pytest.mark.parametrize("form", ["polygon", "integers", "run lengths"])
def test_every_form_of_annotation(record, cls, form):
    mask = boxes_mask(3, 4, 21, 13)
    record["annotations"][0]["segmentation"] = {
        "polygon": polygon(3.0, 4.0, 21.0, 13.0),
        "integers": polygon(3, 4, 21, 13),
        "run lengths": mask_util.encode(np.asfortranarray(mask)),
    }[form]
    halve = T.ResizeTransform(HEIGHT, WIDTH, 2 * HEIGHT, 2 * WIDTH)
    instances = mapper(cls, halve, T.HFlipTransform(2 * WIDTH))(record)["instances"]
    expected = np.kron(mask[:, ::-1], np.ones((2, 2), dtype=np.uint8))
    assert instances.gt_classes.tolist() == [CAR]
    assert np.array_equal(instances.gt_masks[0], expected)
    if cls is CocoInstanceLSJ:
        assert instances.gt_boxes.tensor.tolist() == [[18, 8, 54, 26]]


def test_polygons_given_as_arrays_stay_as_they_are(record):
    points = np.array([0.0, 2, 8, 2, 8, 10, 0, 10])
    record["annotations"][0]["segmentation"] = [points]
    mapper(ResizeCropInstance, T.HFlipTransform(WIDTH))(record)
    assert points.tolist() == [0.0, 2, 8, 2, 8, 10, 0, 10]


def test_vanished_instances(record):
    """LSJ drops them, the other mapper keeps them empty."""
    record["annotations"].append({"category_id": 1, "segmentation": polygon(22, 1, 28, 9)})
    crop = T.CropTransform(20, 0, 10, 10)
    dropped = mapper(CocoInstanceLSJ, crop)(record)["instances"]
    assert dropped.gt_classes.tolist() == [1]
    assert dropped.gt_masks.dtype == torch.uint8
    kept = mapper(ResizeCropInstance, crop)(record)["instances"]
    assert kept.gt_classes.tolist() == [CAR, 1]
    assert kept.gt_masks.flatten(1).sum(1).tolist() == [0, 48]


@pytest.mark.parametrize("annotations", [[], [{"category_id": 2, "iscrowd": 1}]])
def test_photo_without_instances(record, annotations):
    record["annotations"] = annotations
    instances = mapper(CocoInstanceLSJ)(record)["instances"]
    assert instances.gt_masks.shape == (0, HEIGHT, WIDTH)
    assert instances.gt_masks.dtype == torch.uint8
    assert instances.gt_boxes.tensor.shape == (0, 4)
    kept = mapper(ResizeCropInstance, padded_size=40)(record)["instances"]
    assert kept.gt_masks.shape == (0, 40, 40)


@pytest.mark.parametrize("value", [0, 255])
def test_padding_is_no_part_of_any_target(record, value):
    """Detectron2's FixedSizeCrop pads segmentations with 0 in v0.6 and with 255 later."""
    mask = np.asfortranarray(boxes_mask(3, 4, 21, 13))
    record["annotations"][0]["segmentation"] = mask_util.encode(mask)
    pad = T.PadTransform(0, 0, 4, 12, WIDTH, HEIGHT, 128, value)
    sample = mapper(CocoInstanceLSJ, pad)(record)
    padding = torch.ones(32, 34, dtype=torch.bool)
    padding[:HEIGHT, :WIDTH] = False
    assert torch.equal(sample["padding_mask"], padding)
    assert (sample["image"][:, padding] == 128).all()
    assert sample["instances"].gt_masks.sum() == mask.sum()
    assert not mapper(CocoPanopticLSJ, pad)(record)["instances"].gt_masks[:, padding].any()


def test_exif_orientation_is_applied(record, tmp_path):
    upright = Image.open(record["file_name"])
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees clockwise
    record["file_name"] = str(tmp_path / "turned.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(record["file_name"], exif=exif)
    image = mapper(CocoPanopticLSJ)(record)["image"]
    assert np.array_equal(image.permute(1, 2, 0), upright)


READS = {
    "file_name": CocoPanopticLSJ,
    "pan_seg_file_name": CocoPanopticLSJ,
    "sem_seg_file_name": ResizeCropSemantic,
}


@pytest.mark.parametrize("key", READS)
def test_missing_file_is_named(record, key):
    record[key] = "nowhere/x.png"
    with pytest.raises(ImageError, match=r"nowhere/x\.png: .*No such file"):
        mapper(READS[key])(record)


@pytest.mark.parametrize("key", READS)
@pytest.mark.parametrize("length", [0, 40])
def test_broken_file_is_named(record, key, length):
    with open(record[key], "r+b") as file:
        file.truncate(length)
    with pytest.raises(ImageError, match=key):
        mapper(READS[key])(record)


@pytest.mark.parametrize("key", ["pan_seg_file_name", "sem_seg_file_name"])
def test_annotation_of_another_size(record, key):
    Image.open(record[key]).crop((0, 0, 29, 20)).save(record[key])
    with pytest.raises(SizeMismatchError, match=rf"{key}.png is 29x20.*file_name.png is 30x20"):
        mapper(READS[key])(record)


def test_photo_of_another_size(record):
    record["height"] += 1
    with pytest.raises(SizeMismatchError, match=r"file_name\.png"):
        mapper(CocoPanopticLSJ)(record)


def test_run_lengths_of_another_size(record):
    mask = np.asfortranarray(np.ones((5, 6), dtype=np.uint8))
    record["annotations"][0]["segmentation"] = mask_util.encode(mask)
    with pytest.raises(SizeMismatchError, match=r"6x5.*file_name\.png is 30x20"):
        mapper(CocoInstanceLSJ)(record)


def test_semantic_map_in_colors(record):
    record["sem_seg_file_name"] = record["pan_seg_file_name"]
    with pytest.raises(ValueError, match=r"pan_seg_file_name\.png: expected one channel"):
        mapper(ResizeCropSemantic)(record)


@pytest.mark.parametrize("segmentation", [None, np.zeros(SIZE, dtype=np.uint8)])
def test_segmentation_of_another_type(record, segmentation):
    record["annotations"][0]["segmentation"] = segmentation
    with pytest.raises(TypeError, match=r"file_name\.png.*polygons"):
        mapper(ResizeCropInstance)(record)


@pytest.mark.parametrize("polygon", [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
def test_polygon_without_area(record, polygon):
    record["annotations"][0]["segmentation"] = [polygon]
    with pytest.raises(ValueError, match=r"file_name\.png.*at least 3 points"):
        mapper(CocoInstanceLSJ)(record)


@pytest.mark.parametrize(
    ("cls", "key"),
    [
        (CocoPanopticLSJ, "segments_info"),
        (ResizeCropPanoptic, "pan_seg_file_name"),
        (ResizeCropSemantic, "sem_seg_file_name"),
        (CocoInstanceLSJ, "annotations"),
        (ResizeCropInstance, "annotations"),
    ],
)
def test_data_of_another_kind(record, cls, key):
    del record[key]
    with pytest.raises(KeyError, match=rf"needs {key}.*file_name\.png.*DATASETS\.TRAIN"):
        mapper(cls)(record)


def test_crop_by_category_needs_the_semantic_map(cfg, record):
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_panoptic"
    del record["sem_seg_file_name"]
    assert "sem_seg" not in build_train_mapper(cfg)(record)
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.5
    with pytest.raises(KeyError, match="needs sem_seg_file_name"):
        build_train_mapper(cfg)(record)


def test_max_pixels_of_the_config(cfg, record):
    for name in MAPPER_NAMES:
        cfg.INPUT.DATASET_MAPPER_NAME = name
        cfg.INPUT.MAX_PIXELS = SIZE[0] * SIZE[1] - 1
        for build in (build_train_mapper, build_test_mapper):
            with pytest.raises(ImageError, match=r"INPUT\.MAX_PIXELS"):
                build(cfg)(record)


def test_test_mapper_gives_what_that_of_detectron2_gives(cfg, record):
    sample = build_test_mapper(cfg)(record)
    expected = DatasetMapper(cfg, is_train=False)(record)
    del expected["sem_seg"]  # evaluators read it from the file
    assert torch.equal(sample.pop("image"), expected.pop("image"))
    assert sample == expected
