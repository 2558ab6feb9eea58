"""Annotation files of videos: loading, custom data, what is refused."""

import copy
import json
import random

import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_video.sampling import sample_frames
from mask2former_video.ytvis import load_ytvis
from mask2former_video.ytvis_format import read_ytvis_json
from segcore.data.custom_data import check_custom_data, setup_custom_data
from segcore.errors import DataError

SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]
RUNS = [0, 8, 72]  # of 8 x 10 pixels
DATA = {
    "videos": [
        {"id": 4, "height": 8, "width": 10, "file_names": ["b/0.jpg", "b/1.jpg", "b/2.jpg"]},
        {"id": 2, "height": 8, "width": 10, "file_names": ["a/0.jpg"]},
    ],
    "categories": [{"id": 6, "name": "six"}, {"id": 3, "name": "three", "color": [1, 2, 3]}],
    "annotations": [
        {
            "id": 1,
            "video_id": 4,
            "category_id": 6,
            "segmentations": [[SQUARE, [1.0, 2.0]], {"size": [8, 10], "counts": RUNS}, [[1, 2]]],
            "bboxes": [[1, 1, 4, 4], [0, 0, 1, 8], [0, 0, 1, 1]],
        },
        {
            "id": 9,
            "video_id": 2,
            "category_id": 3,
            "iscrowd": 1,
            "segmentations": [None],
            "bboxes": [None],
            "areas": [None],
        },
    ],
}


def write(folder, change=lambda data: None):
    data = copy.deepcopy(DATA)
    change(data)
    path = folder / "videos.json"
    path.write_text(json.dumps(data))
    return path


def test_records_are_sorted_and_contiguous(tmp_path, caplog):
    first, second = load_ytvis(write(tmp_path), "frames")
    assert (first["video_id"], first["annotations"], first["length"]) == (2, [[]], 1)
    assert second["file_names"][2] == "frames/b/2.jpg"
    polygons, runs = (second["annotations"][frame][0] for frame in (0, 1))
    assert polygons["category_id"] == 1 and polygons["segmentation"] == [SQUARE]
    assert mask_util.area(runs["segmentation"]) == 8
    assert second["annotations"][2] == []
    assert "1 segmentations have no polygon of three points" in caplog.text


@pytest.mark.parametrize("missing", [None, []])
def test_annotations_may_be_missing(tmp_path, missing):
    path = write(tmp_path, lambda data: data.update(annotations=missing))
    assert [record["annotations"] for record in load_ytvis(path, "")] == [[[]], [[], [], []]]
    path = write(tmp_path, lambda data: data.pop("annotations"))
    assert read_ytvis_json(path)["annotations"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(videos=[]), "expected annotations of videos in the format of YouTube"),
        (
            lambda d: d["videos"][0].update(file_names=["../x"]),
            "number 0: 'file_names': .*inside",
        ),
        (lambda d: d["videos"][0].update(height=0), "'height': expected an integer from 1"),
        (lambda d: d["videos"][1].update(id=4), "2 video records have id 4"),
        (lambda d: d["annotations"][0].update(id=0), "annotation number 0: 'id': expected"),
        (lambda d: d["annotations"][0].update(video_id=5), "there is no video with id 5"),
        (lambda d: d["annotations"][0].update(category_id=5), "there is no category with id 5"),
        (lambda d: d["annotations"][0]["bboxes"].pop(), "'bboxes': expected 3 items, .* got 2"),
        (lambda d: d["annotations"].append([]), "annotation number 2: expected an object"),
        (
            lambda d: d["annotations"][0]["segmentations"][1].update(counts=[0, 8]),
            "annotation 1, frame 1: expected run lengths of 80 pixels in all, got 8",
        ),
        (
            lambda d: d["annotations"][0]["segmentations"].__setitem__(0, [[1e7] * 6]),
            "annotation 1, frame 0: expected points of a polygon on the photo",
        ),
        (
            lambda d: d["annotations"][0]["segmentations"].__setitem__(0, "abc"),
            "expected a segmentation as a list of polygons",
        ),
    ],
)
def test_faults_are_named(tmp_path, change, message):
    path = write(tmp_path, change)
    with pytest.raises(DataError, match=rf"{path}.*{message}"):
        load_ytvis(path, "frames")


def test_registered_data_need_the_classes_of_youtubevis(tmp_path):
    with pytest.raises(DataError, match="expected the 1 classes of YouTubeVIS"):
        load_ytvis(write(tmp_path), "frames", [{"id": 1, "name": "person"}])
    with pytest.raises(DataError, match=r"train.json: the annotations of YouTubeVIS 2019"):
        DatasetCatalog.get("ytvis_2019_train")


def custom(build_cfg, drawn):
    paths = {
        f"DATASETS__VIDEO__{split}__{key}": drawn / folder / name
        for split, folder in (("TRAIN", "train"), ("TEST", "val"))
        for key, name in (("FRAMES", "frames"), ("JSON", "videos.json"))
    }
    return build_cfg(**paths)


def test_custom_videos(build_cfg, drawn):
    cfg = custom(build_cfg, drawn)
    setup_custom_data(cfg)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 5
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert [record["length"] for record in records] == [5, 5, 5]
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    assert metadata.thing_classes == ["disc", "square", "triangle", "star", "ring"]
    reports = check_custom_data(cfg)
    assert all(report.ok for report in reports) and "5 classes" in reports[0].summary()


def test_check_reports_what_is_wrong(build_cfg, drawn, tmp_path):
    cfg = custom(build_cfg, drawn)
    video = cfg.DATASETS.VIDEO
    data = json.loads((drawn / "val/videos.json").read_text())
    data["videos"][0]["file_names"][0] = "missing.jpg"
    data["videos"][1]["width"] += 1
    data["categories"][0]["name"] = "circle"
    video.TEST.JSON = str(tmp_path / "test.json")
    data["annotations"] = []
    (tmp_path / "test.json").write_text(json.dumps(data))
    reports = check_custom_data(cfg)
    assert reports[0].ok
    kinds = [problem.kind for problem in reports[1].errors]
    assert kinds.count("different sizes") == 5 and "unreadable frame" in kinds
    with pytest.raises(DataError, match="category 1, 'circle', is in only one of"):
        setup_custom_data(cfg)
    video.TEST.JSON = ""
    with pytest.raises(DataError, match=r"DATASETS.VIDEO.TEST.JSON: it is not set"):
        setup_custom_data(cfg)


@pytest.mark.parametrize(
    ("length", "num_frames", "distance"), [(9, 2, 20), (9, 3, 2), (1, 2, 20), (2, 5, 1), (5, 1, 3)]
)
def test_frames_of_a_clip(length, num_frames, distance):
    random.seed(0)
    for _ in range(20):
        frames = sample_frames(length, num_frames, distance, shuffle=False)
        assert len(frames) == num_frames and frames == sorted(frames)
        assert 0 <= frames[0] and frames[-1] < length and frames[-1] - frames[0] <= 2 * distance
        assert len(set(frames)) >= min(num_frames, length, 2)
    shuffled = [sample_frames(9, 3, 20, shuffle=True) for _ in range(20)]
    assert any(frames != sorted(frames) for frames in shuffled)
