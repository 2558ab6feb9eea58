"""The five training mappers against the official ones, on the photos of ``coco_sample``."""

import copy
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks
from PIL import Image

from parity.golden import GOLDEN_ROOT, Case, Comparison, parametrize_cases
from segcore.config import get_cfg
from segcore.data.mappers import build_train_mapper

PHOTOS = GOLDEN_ROOT.parent / "data" / "coco_sample"
IGNORE_LABEL = "metadata ignore_label of the first training data set"
# "1 grey level per element; |difference of a sum| <= 0.05 x number of elements summed"
GREY_LEVELS = 1
SUM_SHARE = 0.05


def build(case: Case):
    """The mapper of the case; its configuration keys are those of the YAML files."""
    config = dict(case.config)
    cfg = get_cfg()
    if IGNORE_LABEL in config:
        cfg.DATASETS.TRAIN = (f"golden_{case.name}",)
        MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).ignore_label = config.pop(IGNORE_LABEL)
    cfg.merge_from_list([item for pair in config.items() for item in pair])
    return build_train_mapper(cfg)


def dataset_dict(case: Case, folder: Path) -> dict:
    result = copy.deepcopy(case.info["dataset_dict"])
    for key in ("file_name", "pan_seg_file_name"):
        if key in result:
            result[key] = str(PHOTOS / result[key])
    if "sem_seg_file_name" in result:
        result["sem_seg_file_name"] = str(folder / "sem_seg.png")
        Image.fromarray(case.arrays["input_sem_seg"]).save(result["sem_seg_file_name"])
    return result


def kind(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def packed(masks: np.ndarray) -> np.ndarray:
    return np.packbits(masks.reshape(len(masks), -1), axis=1)


@parametrize_cases("mask2former", "mapper_")
def test_mapper(case: Case, tmp_path, record_property):
    if "dataset_dict" not in case.info:
        pytest.skip("for information: the official mapper raises here")
    if not PHOTOS.is_dir():
        pytest.skip(f"{PHOTOS} is absent")
    mapper, given = build(case), dataset_dict(case, tmp_path)
    np.random.seed(case.info["seed"])  # noqa: NPY002 the mappers draw from the global streams
    random.seed(case.info["seed"])
    sample = mapper(copy.deepcopy(given))

    after = case.info["rng_after"]
    assert np.random.random_sample() == after["numpy.random.random_sample()"]  # noqa: NPY002
    assert random.random() == after["random.random()"]
    assert {key: kind(value) for key, value in sample.items()} == case.info["output_keys"]
    for key, value in case.info["leftover"].items():
        assert sample[key] == value

    comparison = Comparison()
    compare_image(comparison, case, sample["image"])
    if "sem_seg" in sample:
        compare_semantic_map(comparison, case, sample["sem_seg"])
    if "padding_mask" in sample:
        padding = int(sample["padding_mask"].sum())
        # Detectron2's versions differ (README_mappers.md); ours is right with both.
        comparison.equal("padding_mask", padding, case.arrays["padding_mask_sum_v06"])
    compare_instances(comparison, case, sample["instances"])
    record_property("worst", str(comparison.worst))
    comparison.check()


def compare_image(comparison: Comparison, case: Case, image: torch.Tensor) -> None:
    golden = case.arrays
    assert list(image.shape) == case.info["image_shape"]
    comparison.close("image_s4", image[:, ::4, ::4], golden["image_s4"], GREY_LEVELS)
    total = image.to(torch.int64).sum((1, 2))
    pixels = image[0].numel()
    channel_sums = golden["image_channel_sums"]
    comparison.close("image_channel_sums", total, channel_sums, SUM_SHARE * pixels)
    comparison.close("image_sum", total.sum(), golden["image_sum"], SUM_SHARE * image.numel())


def compare_semantic_map(comparison: Comparison, case: Case, semantic_map: torch.Tensor) -> None:
    labels, counts = semantic_map.unique(return_counts=True)
    comparison.equal("sem_seg_hist_label", labels, case.arrays["sem_seg_hist_label"])
    comparison.equal("sem_seg_hist_count", counts, case.arrays["sem_seg_hist_count"])
    comparison.equal("sem_seg_s4", semantic_map[::4, ::4], case.arrays["sem_seg_s4"])
    checksum = zlib.crc32(semantic_map.numpy().astype("<i8").tobytes())
    comparison.equal("sem_seg", checksum, case.info["sem_seg_crc32_little_endian_int64"])


def compare_instances(comparison: Comparison, case: Case, instances) -> None:
    info, golden = case.info, case.arrays
    masks = instances.gt_masks
    assert set(instances.get_fields()) == set(info["instances_fields"])
    assert list(instances.image_size) == info["instances_image_size"]
    assert kind(masks) == f"tensor {info['gt_masks_dtype']} {info['gt_masks_shape']}"
    assert instances.gt_classes.dtype == torch.int64
    comparison.equal("gt_classes", instances.gt_classes, golden["gt_classes"])
    if "gt_boxes" in golden:
        comparison.close("gt_boxes", instances.gt_boxes.tensor, golden["gt_boxes"], 1e-3)
    if len(masks) == 0:
        return
    bits = packed(masks.numpy().astype(bool))
    areas = masks.sum((1, 2), dtype=torch.int64)
    comparison.equal("mask_areas", areas, golden["mask_areas"])
    comparison.equal(
        "mask_boxes", BitMasks(masks).get_bounding_boxes().tensor, golden["mask_boxes"]
    )
    comparison.equal(
        "mask_crc32", [zlib.crc32(row.tobytes()) for row in bits], golden["mask_crc32"]
    )
    comparison.equal("masks01_packed", bits[:2], golden["masks01_packed"])
    largest = golden["largest_index"]
    comparison.equal("masks_largest_packed", bits[largest], golden["masks_largest_packed"])
