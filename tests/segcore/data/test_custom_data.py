import errno
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator
from detectron2.structures import BitMasks, Instances
from PIL import Image

import panoptic_segformer  # noqa: F401 registers its mapper
from segcore.data.custom_data import check_custom_data, setup_custom_data
from segcore.data.derived import PanopticSource, derive
from segcore.data.mappers import build_train_mapper
from segcore.data.panoptic_format import read_panoptic_json, read_panoptic_png
from segcore.engine import output_folder
from segcore.errors import DataError, OutputError
from segcore.evaluation import InstanceSegEvaluator

COCO_SAMPLE = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco_sample"
TRAIN, TEST = "custom_panoptic_train", "custom_panoptic_test"
MAPPER_NAMES = [
    "coco_panoptic_lsj",
    "coco_instance_lsj",
    "mask_former_semantic",
    "mask_former_panoptic",
    "mask_former_instance",
    "panoptic_segformer",
]


@pytest.fixture(autouse=True)
def clean_catalogs():
    yield
    for name in (TRAIN, TEST):
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)


def sem_seg(record: dict) -> np.ndarray:
    return np.asarray(Image.open(record["sem_seg_file_name"]))


# Set-up


def test_without_custom_data_nothing_happens(cfg):
    before = cfg.dump()
    setup_custom_data(cfg)
    assert cfg.dump() == before
    assert TRAIN not in DatasetCatalog


def test_config_follows_the_data(cfg, folder):
    folder.put_into(cfg, "TRAIN")
    folder.put_into(cfg, "TEST")
    setup_custom_data(cfg)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((TRAIN,), (TEST,))
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 4
    assert cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == 255


def test_metadata(cfg, folder):
    folder.put_into(cfg, "TEST")
    setup_custom_data(cfg)
    metadata = MetadataCatalog.get(TEST)
    assert metadata.stuff_classes == ["road", "car", "person", "sky"]
    assert metadata.thing_classes == ["road", "car", "person"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 1, 11: 2}
    assert metadata.stuff_dataset_id_to_contiguous_id == {7: 0, 3: 1, 11: 2, 5: 3}
    assert metadata.stuff_colors[0] == [90, 90, 90]
    assert np.array(metadata.stuff_colors).shape == (4, 3)  # made up where the JSON has none
    assert metadata.thing_colors == metadata.stuff_colors[:3]
    assert (metadata.ignore_label, metadata.label_divisor) == (255, 1000)
    assert metadata.evaluator_type == "coco_panoptic_seg"
    assert (metadata.image_root, metadata.panoptic_root) == (str(folder.images), str(folder.pngs))


def test_dicts(cfg, folder):
    folder.put_into(cfg, "TEST")
    setup_custom_data(cfg)
    first, second = DatasetCatalog.get(TEST)
    assert first["file_name"] == str(folder.images / "a.jpg")
    assert second["file_name"] == str(folder.images / "more/b.png")  # the JSON's, not the PNG's
    assert second["pan_seg_file_name"] == str(folder.pngs / "b_ids.png")
    assert (first["image_id"], first["height"], first["width"]) == (1, 24, 32)
    assert [
        (segment["id"], segment["category_id"], segment["isthing"], segment["iscrowd"])
        for segment in first["segments_info"]
    ] == [
        (9, 3, False, 0),
        (300, 0, False, 0),
        (70000, 1, True, 0),
        (2, 1, True, 0),
        (16_000_000, 2, True, 1),
    ]
    assert set(sem_seg(first)[folder.ids["a.png"] == 70000]) == {1}
    assert (sem_seg(second) == 0).all()


def test_only_evaluation(cfg, folder):
    folder.put_into(cfg, "TEST")
    setup_custom_data(cfg)
    assert MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes[1] == "car"
    with pytest.raises(DataError, match=r"DATASETS\.PANOPTIC\.TRAIN is not set"):
        DatasetCatalog.get(TRAIN)


def test_only_training(cfg, folder):
    cfg.DATASETS.TEST = ("coco_2017_val_panoptic",)
    folder.put_into(cfg, "TRAIN")
    setup_custom_data(cfg)
    assert cfg.DATASETS.TEST == ()
    assert len(DatasetCatalog.get(TRAIN)) == 2


def test_partly_set_paths(cfg, folder):
    folder.put_into(cfg, "TRAIN")
    cfg.DATASETS.PANOPTIC.TRAIN.JSON = ""
    with pytest.raises(DataError, match=r"DATASETS\.PANOPTIC\.TRAIN\.JSON"):
        setup_custom_data(cfg)


def test_explicit_class_count(cfg, folder):
    folder.put_into(cfg, "TRAIN")
    setup_custom_data(cfg, explicit_num_classes=4)
    with pytest.raises(DataError, match=r"4 categories.*NUM_CLASSES is set to 133"):
        setup_custom_data(cfg, explicit_num_classes=133)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda categories: categories[1].update(name="lorry"), "number 2"),
        (lambda categories: categories[0].update(isthing=1), "number 1"),
        (lambda categories: categories.append({"id": 99, "name": "x", "isthing": 1}), "number 5"),
        (lambda categories: categories.reverse(), "number 1"),
    ],
)
def test_splits_must_agree(cfg, folder, tmp_path, change, difference):
    other = type(folder)(tmp_path / "other")
    change(other.data["categories"])
    other.write()
    folder.put_into(cfg, "TRAIN")
    other.put_into(cfg, "TEST")
    with pytest.raises(DataError, match=difference):
        setup_custom_data(cfg)
    assert "different categories" in check_custom_data(cfg)[-1].summary()


def test_photos_in_both_splits_are_counted(cfg, folder, tmp_path):
    other = type(folder)(tmp_path / "other")
    other.data["images"][0]["file_name"] = "renamed.jpg"
    (other.images / "a.jpg").rename(other.images / "renamed.jpg")
    Image.new("RGB", (30, 20)).save(other.images / "more" / "b.png")
    other.write()
    folder.put_into(cfg, "TRAIN")
    other.put_into(cfg, "TEST")
    train, test = check_custom_data(cfg)
    assert train.ok and test.ok and not train.warnings
    (problem,) = test.warnings
    assert "1 photos of TEST are in TRAIN too" in str(problem)
    assert "'renamed.jpg' and 'a.jpg'" in str(problem)
    Image.new("RGB", (32, 24)).save(other.images / "renamed.jpg")
    assert not check_custom_data(cfg)[1].warnings


def test_bad_data_stop_the_set_up(cfg, folder):
    folder.ids["a.png"][0, 0] = 4
    folder.write()
    folder.put_into(cfg, "TEST")
    with pytest.raises(DataError, match=r"PNG id without segment(.|\n)*a\.png"):
        setup_custom_data(cfg)
    (report,) = check_custom_data(cfg)
    assert not report.ok


def test_quick_set_up_derives_nothing(cfg, folder):
    folder.put_into(cfg, "TEST")
    setup_custom_data(cfg, quick=True)
    assert MetadataCatalog.get(TEST).thing_classes[1] == "car"
    assert not Path(cfg.OUTPUT_DIR).exists()
    folder.data["images"][0]["file_name"] = "gone.jpg"
    folder.write()
    with pytest.raises(DataError, match=r"gone\.jpg"):
        setup_custom_data(cfg, quick=True)


def test_set_up_again(cfg, folder):
    """The same, then with other content, under the same names."""
    folder.put_into(cfg, "TEST")
    setup_custom_data(cfg)
    files = sorted(Path(cfg.OUTPUT_DIR).rglob("*"))
    times = [path.stat().st_mtime_ns for path in files]
    setup_custom_data(cfg)
    assert sorted(Path(cfg.OUTPUT_DIR).rglob("*")) == files
    assert [path.stat().st_mtime_ns for path in files] == times

    folder.data["categories"][1]["name"] = "lorry"
    folder.segments.pop()
    folder.ids["a.png"][folder.ids["a.png"] == 16_000_000] = 70000
    folder.write()
    setup_custom_data(cfg)
    assert MetadataCatalog.get(TEST).thing_classes[1] == "lorry"
    assert set(sem_seg(DatasetCatalog.get(TEST)[0])[4:8, 20:30].ravel()) == {1}


def test_a_passed_check_is_not_repeated_until_a_file_changes(cfg, folder, monkeypatch):
    folder.put_into(cfg, "TRAIN")
    setup_custom_data(cfg)
    monkeypatch.setattr("segcore.data.custom_data.check_panoptic_dataset", lambda *_, **__: 1 / 0)
    setup_custom_data(cfg)
    Image.new("RGB", (32, 24)).save(folder.images / "a.jpg")
    with pytest.raises(ZeroDivisionError):
        setup_custom_data(cfg)


def test_a_photo_may_have_a_string_for_an_id(cfg, folder):
    for photo, annotation in zip(folder.data["images"], folder.data["annotations"], strict=True):
        photo["id"] = annotation["image_id"] = f"photo {photo['id']}"
    folder.write()
    folder.put_into(cfg, "TEST")
    setup_custom_data(cfg)
    assert perfect_panoptic(cfg)["PQ"] == 100


def test_more_than_255_classes(cfg, folder):
    folder.data["categories"] += [
        {"id": 1000 + number, "name": f"class {number}", "isthing": 0} for number in range(300)
    ]
    folder.segments[0]["category_id"] = 1299
    folder.write()
    folder.put_into(cfg, "TRAIN")
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    setup_custom_data(cfg)
    assert cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == MetadataCatalog.get(TRAIN).ignore_label == 65535
    record = DatasetCatalog.get(TRAIN)[0]
    assert sem_seg(record)[0, 0] == 303
    assert sem_seg(record)[-1, -1] == 65535
    assert 303 in build_train_mapper(cfg)(record)["instances"].gt_classes


# Derived files


def test_training_derives_what_its_mapper_reads(cfg, folder):
    folder.put_into(cfg, "TRAIN")
    for name in MAPPER_NAMES:
        cfg.INPUT.DATASET_MAPPER_NAME = name
        setup_custom_data(cfg)
        record = DatasetCatalog.get(TRAIN)[0]
        assert ("annotations" in record) == ("instance" in name)
        assert ("sem_seg_file_name" in record) == name.startswith(
            ("mask_former_semantic", "mask_former_panoptic")
        )


def test_derived_panoptic_json_has_measured_areas(folder, tmp_path):
    folder.segments[2]["area"] = 1
    folder.write()
    files = derive(PanopticSource(folder.images, folder.json, folder.pngs), tmp_path / "derived")
    for annotation in read_panoptic_json(files.panoptic)["annotations"]:
        ids = read_panoptic_png(folder.pngs / annotation["file_name"])
        for segment in annotation["segments_info"]:
            assert segment["area"] == np.count_nonzero(ids == segment["id"])
            assert "iscrowd" in segment


def test_instance_json_counts_from_one(folder, tmp_path):
    files = derive(PanopticSource(folder.images, folder.json, folder.pngs), tmp_path / "derived")
    annotations = json.loads(files.instances.read_text())["annotations"]
    assert [annotation["id"] for annotation in annotations] == [1, 2, 3]


def test_several_derive_at_once(folder, tmp_path):
    source, target = PanopticSource(folder.images, folder.json, folder.pngs), tmp_path / "derived"
    with ThreadPoolExecutor(4) as pool:
        for files in pool.map(lambda _: derive(source, target), range(4)):
            assert files.panoptic.is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "derived", "derived.lock"}


def test_a_failed_derivation_leaves_nothing(folder, tmp_path):
    (folder.pngs / "b_ids.png").unlink()
    source = PanopticSource(folder.images, folder.json, folder.pngs)
    with pytest.raises(DataError, match="b_ids"):
        derive(source, tmp_path / "derived")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "derived.lock"}


def test_what_a_killed_run_left_is_removed(tmp_path):
    left = tmp_path / "derived" / f".{socket.gethostname()}-{2**22 + 1}-0.partial" / "semantic"
    left.mkdir(parents=True)
    with output_folder(str(tmp_path), trains_anew=False):
        assert list((tmp_path / "derived").iterdir()) == []


def test_a_full_disk_leaves_nothing_and_is_said(folder, tmp_path, monkeypatch):
    def write_nothing(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_nothing)
    source = PanopticSource(folder.images, folder.json, folder.pngs)
    with pytest.raises(OutputError, match=r"derived/train: cannot be written: No space left"):
        derive(source, tmp_path / "derived" / "train")
    assert {path.name for path in (tmp_path / "derived").iterdir()} == {"train.lock"}


def test_an_output_folder_that_cannot_be_written_is_named(cfg, folder):
    Path(cfg.OUTPUT_DIR).write_text("a file")
    folder.put_into(cfg, "TEST")
    with pytest.raises(OutputError, match=r"output/derived.*OUTPUT_DIR"):
        setup_custom_data(cfg)


# What passes the check passes the set-up


def test_lies_about_boxes_and_areas_do_not_reach_the_mapper(cfg, folder):
    folder.segments[2].update(bbox=[0, 0, 1, 1], area=0)
    folder.write()
    folder.put_into(cfg, "TRAIN")
    cfg.INPUT.DATASET_MAPPER_NAME = "panoptic_segformer"
    cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP = "RGB", "none"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.ENABLED = (24,), False
    setup_custom_data(cfg)
    instances = build_train_mapper(cfg)(DatasetCatalog.get(TRAIN)[0])["instances"]
    boxes = instances.gt_boxes.tensor[instances.gt_classes == 1].tolist()
    assert boxes == [[4, 10, 8, 16], [8, 10, 14, 16]]


def test_instance_training_needs_things(cfg, folder):
    for segment in folder.segments:
        segment["iscrowd"] = 1
    folder.write()
    folder.put_into(cfg, "TRAIN")
    assert check_custom_data(cfg)[0].ok
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_instance_lsj"
    assert "no things" in check_custom_data(cfg)[0].summary()
    with pytest.raises(DataError, match=r"coco_instance_lsj.*trains on things"):
        setup_custom_data(cfg)


def test_a_photo_of_which_resizing_leaves_nothing_is_refused(cfg, folder):
    folder.put_into(cfg, "TRAIN")
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_panoptic_lsj"
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE = 10, 0.1
    assert check_custom_data(cfg)[0].ok
    folder.data["images"][0].update(height=1, width=2)
    folder.ids["a.png"] = folder.ids["a.png"][:1, :2]
    del folder.segments[1:]
    Image.new("RGB", (2, 1)).save(folder.images / "a.jpg")
    folder.write()
    (problem,) = check_custom_data(cfg)[0].errors
    assert "'a.jpg' is 2 x 1" in str(problem)


def test_check_knows_the_explicit_class_count(cfg, folder):
    folder.put_into(cfg, "TRAIN")
    assert check_custom_data(cfg, explicit_num_classes=4)[0].ok
    assert not check_custom_data(cfg, explicit_num_classes=133)[0].ok


@pytest.mark.parametrize("value", [[], {}, 1.5, "1", None, -1, 10**30, "\ud800", "a\0", "/", ".."])
@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("images", "id"),
        ("images", "file_name"),
        ("images", "height"),
        ("annotations", "image_id"),
        ("annotations", "file_name"),
        ("annotations", "segments_info"),
        ("categories", "id"),
        ("categories", "color"),
    ],
)
def test_values_of_any_type_are_refused_by_check_and_set_up_alike(cfg, folder, kind, key, value):
    folder.data[kind][0][key] = value
    folder.write()
    folder.put_into(cfg, "TEST")
    (report,) = check_custom_data(cfg)
    assert not report.ok
    with pytest.raises(DataError):
        setup_custom_data(cfg)


# With Detectron2's evaluators and our mappers


def perfect_panoptic(cfg) -> dict:
    """COCOPanopticEvaluator on the ground truth of the test split as the prediction."""
    evaluator = COCOPanopticEvaluator(TEST, cfg.OUTPUT_DIR)
    evaluator.reset()
    for record in DatasetCatalog.get(TEST):
        ids = torch.from_numpy(read_panoptic_png(record["pan_seg_file_name"]))
        segments = [
            {key: segment[key] for key in ("id", "category_id", "isthing")}
            for segment in record["segments_info"]
        ]
        evaluator.process([record], [{"panoptic_seg": (ids, segments)}])
    return evaluator.evaluate()["panoptic_seg"]


def perfect_semantic(cfg, num_classes: int) -> dict:
    evaluator = SemSegEvaluator(TEST, output_dir=cfg.OUTPUT_DIR)
    evaluator.reset()
    for record in DatasetCatalog.get(TEST):
        labels = torch.from_numpy(sem_seg(record).astype(np.int64))
        labels[labels == 255] = 0
        scores = torch.nn.functional.one_hot(labels, num_classes).permute(2, 0, 1)
        evaluator.process([record], [{"sem_seg": scores}])
    return evaluator.evaluate()["sem_seg"]


def perfect_instances(evaluator) -> dict:
    evaluator.reset()
    for record in DatasetCatalog.get(TEST):
        ids = torch.from_numpy(read_panoptic_png(record["pan_seg_file_name"]))
        things = [s for s in record["segments_info"] if s["isthing"] and not s["iscrowd"]]
        masks = torch.stack([ids == s["id"] for s in things] or [torch.zeros_like(ids, dtype=bool)])
        masks = masks[: len(things)]
        instances = Instances(
            tuple(ids.shape),
            pred_masks=masks,
            pred_classes=torch.tensor([s["category_id"] for s in things], dtype=torch.int64),
            pred_boxes=BitMasks(masks).get_bounding_boxes(),
            scores=torch.ones(len(things)),
        )
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()


@pytest.fixture
def evaluated(request, cfg, folder):
    """The tiny data set, or the photos of COCO, as the test split; its class count."""
    if request.param == "coco":
        if not COCO_SAMPLE.is_dir():
            pytest.skip("../shared/data/coco_sample is absent")
        node = cfg.DATASETS.PANOPTIC.TEST
        node.IMAGES = str(COCO_SAMPLE / "input_images")
        node.JSON = str(COCO_SAMPLE / "panoptic_examples.json")
        node.PNGS = str(COCO_SAMPLE / "panoptic_examples")
    else:
        folder.put_into(cfg, "TEST")
    setup_custom_data(cfg)
    return cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


both = pytest.mark.parametrize("evaluated", ["tiny", "coco"], indirect=True)


@both
def test_perfect_panoptic_quality(cfg, evaluated):
    results = perfect_panoptic(cfg)
    for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st"):
        assert results[name] == 100, name


@both
def test_perfect_semantic_segmentation(cfg, evaluated):
    results = perfect_semantic(cfg, evaluated)
    assert results["mIoU"] == results["pACC"] == 100


@both
def test_perfect_instances(cfg, evaluated):
    results = perfect_instances(InstanceSegEvaluator(TEST, cfg.OUTPUT_DIR))
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP-person"] > 99 or np.isnan(results["segm"]["AP-person"])


@pytest.mark.parametrize("evaluated", ["coco"], indirect=True)
def test_perfect_instances_by_detectron2s_evaluator(cfg, evaluated):
    """It asks for things before stuff, as COCO has them."""
    results = perfect_instances(COCOEvaluator(TEST, output_dir=cfg.OUTPUT_DIR))
    assert results["segm"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("evaluated", ["coco"], indirect=True)
def test_instances_agree_with_cocos_own_conversion(cfg, evaluated):
    expected = json.loads((COCO_SAMPLE / "panoptic_coco_detection_format.json").read_text())
    derived = json.loads(Path(MetadataCatalog.get(TEST).json_file).read_text())
    things = {category["id"] for category in derived["categories"] if category["isthing"]}

    keys = ("image_id", "category_id", "iscrowd", "area", "segmentation")

    def content(data: dict) -> list:
        return sorted(
            json.dumps([annotation[key] for key in keys], sort_keys=True)
            for annotation in data["annotations"]
            if annotation["category_id"] in things
        )

    assert content(derived) == content(expected)


@pytest.mark.parametrize("name", MAPPER_NAMES)
def test_every_mapper_takes_the_dicts(cfg, folder, name):
    folder.put_into(cfg, "TRAIN")
    cfg.INPUT.DATASET_MAPPER_NAME = name
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = 32, 1.0, 1.0
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    setup_custom_data(cfg)
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=True)
    assert len(dicts) == (1 if "instance" in name else 2)  # the second photo has stuff only
    classes = build_train_mapper(cfg)(dicts[0])["instances"].gt_classes.tolist()
    expected = {
        "coco_panoptic_lsj": [0, 1, 1, 3],
        "mask_former_panoptic": [0, 1, 1, 3],
        "panoptic_segformer": [0, 1, 1, 3],
        "mask_former_semantic": [0, 1, 2, 3],  # crowds are part of it
    }
    assert sorted(classes) == expected.get(name, [1, 1])
