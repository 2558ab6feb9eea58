"""Loading of annotations, and the clip mappers with given seeds, against the official ones."""

import copy
import json
import random

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image

import mask2former_video.mapper as mapper_module
from mask2former_video.ytvis import load_ytvis
from parity.golden import parametrize_cases
from parity.mask2former_video.inputs import picture
from segcore.config import get_cfg
from segcore.data.mappers import build_train_mapper

SIZE = (45, 60)


def build(case, mapper: str):
    config, cfg = case.config, get_cfg()
    inputs = cfg.INPUT
    inputs.DATASET_MAPPER_NAME = mapper
    inputs.SAMPLING_FRAME_NUM = config["sampling_frame_num"]
    inputs.SAMPLING_FRAME_RANGE = config.get("sampling_frame_range", 20)
    inputs.SAMPLING_FRAME_SHUFFLE = config.get("sampling_frame_shuffle", False)
    inputs.MIN_SIZE_TRAIN = config["min_size_train"]
    inputs.MAX_SIZE_TRAIN = config["max_size_train"]
    inputs.MIN_SIZE_TRAIN_SAMPLING = config["min_size_train_sampling"]
    inputs.RANDOM_FLIP = config["random_flip"]
    inputs.AUGMENTATIONS = config.get("augmentations", [])
    inputs.AUGMENTATIONS_BY_CLIP = False  # as officially
    inputs.FORMAT = config.get("format", "RGB")
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = config.get("num_classes", 4)
    return build_train_mapper(cfg)


def write_picture(name: str, path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture(name, SIZE).permute(1, 2, 0).numpy()).save(path)


def compare_clip(comparison, case, number: int, call: dict, sample: dict, row_ids: list) -> None:
    ids = call.get("row_ids", row_ids)
    order = [row_ids.index(id_) for id_ in ids]
    for t, (image, frame) in enumerate(zip(sample["image"], sample["instances"], strict=True)):
        assert list(image.shape[1:]) == call["image_shapes"][t]
        array = f"call{number}_image{t}"
        actual = case.sampled(array, image)
        # OpenCV's rotation of other versions may round a few pixels otherwise.
        comparison.close(array, actual, case.arrays[array], 1)
        comparison.equal(f"ids {t}", frame.gt_ids[order], call["gt_ids"][t])
        comparison.equal(f"classes {t}", frame.gt_classes[order], call["gt_classes"][t])
        comparison.close(f"boxes {t}", frame.gt_boxes.tensor[order], call["gt_boxes"][t], 0)
        array = f"call{number}_masks{t}_packed"
        masks = frame.gt_masks.tensor[order]
        comparison.equal(array, masks, case.unpacked(array, masks.shape))


@pytest.fixture
def videos(case, tmp_path):
    """Records of the case's annotation file and the folder of the frames."""
    for video in range(2):
        for name in case.info["json"]["videos"][1 - video]["file_names"]:
            frame = int(name.split("/")[1].split(".")[0])
            write_picture(f"{case.name}.v{video}.t{frame}", tmp_path / name)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(case.info["json"]))
    return load_ytvis(path, tmp_path)


@parametrize_cases("mask2former_video", "mapper_")
def test_video_mapper(case, videos, comparison, monkeypatch, tmp_path):
    for record, expected in zip(videos, case.info["loaded"], strict=True):
        for key in ("height", "width", "length", "video_id"):
            assert record[key] == expected[key]
        assert record["file_names"] == [str(tmp_path / name) for name in expected["file_names"]]
        for tracks, golden in zip(
            record["annotations"], expected["annotations_per_frame"], strict=True
        ):
            assert [t["bbox_mode"] for t in tracks] == [BoxMode.XYWH_ABS] * len(golden)
            for track, values in zip(tracks, golden, strict=True):
                values = {k: v for k, v in values.items() if k != "bbox_mode"}
                assert {k: track[k] for k in values} == values
    mapper = build(case, "ytvis_clip")
    given = copy.deepcopy(videos)
    for number, call in enumerate(case.info["calls"]):
        record = videos[call["video"]]
        random.seed(call["seed"])
        np.random.seed(call["seed"])  # noqa: NPY002 the mapper draws from the global streams
        if mapper.num_frames > 2:  # ours are drawn without replacement

            def given_frames(length, num_frames, max_distance, *, shuffle, call=call):
                reference = random.randrange(length)
                near = range(
                    max(0, reference - max_distance), min(length, reference + max_distance + 1)
                )
                near = [frame for frame in near if frame != reference]
                np.random.choice(near, num_frames - 1)  # noqa: NPY002
                return call["frames"]

            monkeypatch.setattr(mapper_module, "sample_frames", given_frames)
        sample = mapper(record)
        names = [record["file_names"][frame] for frame in call["frames"]]
        assert sample["file_names"] == names
        assert sorted(sample.keys() - {"file_names", "image", "instances"}) == call["other_keys"]
        compare_clip(comparison, case, number, call, sample, sorted(call["row_ids"]))
    assert videos == given
    comparison.check()


@parametrize_cases("mask2former_video", "image_clip_mapper")
def test_image_clip_mapper(case, comparison, tmp_path):
    path = tmp_path / "image.png"
    write_picture("image_clip_mapper.image", path)
    annotations = [
        {**annotation, "bbox_mode": BoxMode.XYWH_ABS} for annotation in case.info["annotations"]
    ]
    record = {"file_name": str(path), "height": SIZE[0], "width": SIZE[1], "image_id": 3}
    mapper = build(case, "coco_clip")
    for number, call in enumerate(case.info["calls"]):
        random.seed(call["seed"])
        np.random.seed(call["seed"])  # noqa: NPY002
        sample = mapper({**record, "annotations": annotations})
        assert sample["file_names"] == [str(path)] * 2 and sample["image_id"] == 3
        rows = list(range(len(call["gt_classes"][0])))
        ours = [{**call, "row_ids": rows}]
        compare_clip(comparison, case, number, *ours, sample, rows)
        assert torch.equal(sample["instances"][0].gt_classes, sample["instances"][1].gt_classes)
    comparison.check()
