"""Registered data sets: metadata of the real names, loaders on tiny folders."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_ade20k
from detectron2.data.datasets.cityscapes_panoptic import register_all_cityscapes_panoptic
from panopticapi.utils import id2rgb
from PIL import Image

import segcore.data.datasets  # noqa: F401 registers them
from segcore.config import get_cfg
from segcore.data.datasets import register_all, require_training_files
from segcore.data.datasets.catalog import datasets_root, register
from segcore.data.datasets.categories import load_categories
from segcore.data.mappers.lsj import CocoPanopticLSJ
from segcore.errors import DataError, OutputError

# name -> (evaluator type, ignore label, classes, things)
PANOPTIC = {
    "coco_2017_{}_panoptic_with_sem_seg": ("coco_panoptic_seg", 255, 133, 80),
    "ade20k_panoptic_{}": ("ade20k_panoptic_seg", 255, 150, 100),
    "mapillary_vistas_panoptic_{}": ("mapillary_vistas_panoptic_seg", 65, 65, 37),
}
SEMANTIC = {
    "ade20k_full_sem_seg_train": (65535, 847),
    "ade20k_full_sem_seg_val": (65535, 847),
    "ade20k_sem_seg_train": (255, 150),
    "ade20k_sem_seg_val": (255, 150),
    "coco_2017_train_stuff_10k_sem_seg": (255, 171),
    "coco_2017_test_stuff_10k_sem_seg": (255, 171),
    "mapillary_vistas_sem_seg_train": (65, 65),
    "mapillary_vistas_sem_seg_val": (65, 65),
}
MAPILLARY_THINGS = [1, 2, 9, *range(20, 25), *range(33, 44), *range(45, 59), *range(60, 64)]


@pytest.fixture
def root(tmp_path, empty_catalogs) -> Path:
    register_all(str(tmp_path))
    return tmp_path


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", PANOPTIC)
def test_panoptic_metadata(name, split):
    evaluator_type, ignore_label, classes, things = PANOPTIC[name]
    metadata = MetadataCatalog.get(name.format(split))
    assert name.format(split) in DatasetCatalog
    assert metadata.evaluator_type == evaluator_type
    assert (metadata.ignore_label, metadata.label_divisor) == (ignore_label, 1000)
    assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == classes
    contiguous = metadata.stuff_dataset_id_to_contiguous_id
    assert sorted(contiguous.values()) == list(range(classes))
    thing_ids = metadata.thing_dataset_id_to_contiguous_id
    assert len(thing_ids) == things
    assert thing_ids.items() <= contiguous.items()
    # What Visualizer looks up: by contiguous id, in either list.
    for index in thing_ids.values():
        assert metadata.thing_classes[index] == metadata.stuff_classes[index]
        assert metadata.thing_colors[index] == metadata.stuff_colors[index]


def test_things_of_coco_come_first_and_alone():
    """As COCOEvaluator demands of ``thing_classes``."""
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_with_sem_seg")
    assert list(metadata.thing_dataset_id_to_contiguous_id.values()) == list(range(80))
    assert metadata.thing_classes == MetadataCatalog.get("coco_2017_val").thing_classes
    plain = MetadataCatalog.get("coco_2017_val_panoptic")
    assert metadata.stuff_classes == plain.stuff_classes
    assert metadata.json_file == MetadataCatalog.get("coco_2017_val").json_file


def test_things_of_mapillary():
    metadata = MetadataCatalog.get("mapillary_vistas_panoptic_val")
    things = metadata.thing_dataset_id_to_contiguous_id
    assert things == {identity: identity - 1 for identity in MAPILLARY_THINGS}


def test_things_of_ade20k():
    panoptic = MetadataCatalog.get("ade20k_panoptic_val").thing_dataset_id_to_contiguous_id
    instance = MetadataCatalog.get("ade20k_instance_val")
    assert panoptic == {identity: identity for identity in panoptic}
    assert list(instance.thing_dataset_id_to_contiguous_id) == list(panoptic)
    assert list(instance.thing_dataset_id_to_contiguous_id.values()) == list(range(100))
    assert len(instance.thing_classes) == 100
    assert instance.evaluator_type == "coco"
    mapping = load_categories("ade20k_instance_to_150")
    assert [entry["class_id_1based"] - 1 for entry in mapping] == list(panoptic)


@pytest.mark.parametrize("name", SEMANTIC)
def test_semantic_metadata(name):
    ignore_label, classes = SEMANTIC[name]
    metadata = MetadataCatalog.get(name)
    assert name in DatasetCatalog
    assert metadata.evaluator_type == "sem_seg"
    assert metadata.ignore_label == ignore_label
    assert len(metadata.stuff_classes) == classes


def test_colors_are_added_to_detectron2s_ade20k():
    assert len(MetadataCatalog.get("ade20k_sem_seg_val").stuff_colors) == 150
    names = [category["name"] for category in load_categories("ade20k_150")]
    assert names == MetadataCatalog.get("ade20k_sem_seg_val").stuff_classes


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("task", ["instance_seg", "sem_seg", "panoptic"])
def test_cityscapes_is_detectron2s(task, split):
    name = f"cityscapes_fine_{task}_{split}"
    assert name in DatasetCatalog
    assert len(MetadataCatalog.get(name).stuff_classes) == 19


# name -> folder of photos, panoptic JSON, folder of panoptic PNGs, folder of semantic PNGs
PANOPTIC_FILES = {
    "coco_2017_val_panoptic_with_sem_seg": (
        "coco/val2017",
        "coco/annotations/panoptic_val2017.json",
        "coco/panoptic_val2017",
        "coco/panoptic_semseg_val2017",
    ),
    "ade20k_panoptic_train": (
        "ADEChallengeData2016/images/training",
        "ADEChallengeData2016/ade20k_panoptic_train.json",
        "ADEChallengeData2016/ade20k_panoptic_train",
        "ADEChallengeData2016/annotations_detectron2/training",
    ),
    "mapillary_vistas_panoptic_val": (
        "mapillary_vistas/validation/images",
        "mapillary_vistas/validation/panoptic/panoptic_2018.json",
        "mapillary_vistas/validation/panoptic",
        "mapillary_vistas/validation/labels",
    ),
}


def write_panoptic(root: Path, name: str, image_id: int | str = "x_1") -> dict:
    """One photo: a thing (id 70000) over stuff (id 5). Returns the JSON's content."""
    images, panoptic_json, panoptic, semantic = PANOPTIC_FILES[name]
    metadata = MetadataCatalog.get(name)
    contiguous, things = (
        metadata.stuff_dataset_id_to_contiguous_id,
        metadata.thing_dataset_id_to_contiguous_id,
    )
    ids = np.full((6, 8), 5)
    ids[2:4, 2:5] = 70000
    picture(root / images / "x_1.jpg", np.zeros((6, 8, 3), dtype=np.uint8))
    picture(root / panoptic / "x_1.png", id2rgb(ids))
    picture(root / semantic / "x_1.png", np.zeros((6, 8), dtype=np.uint8))
    stuff = next(identity for identity in contiguous if identity not in things)
    content = {
        "images": [{"id": image_id, "file_name": "x_1.jpg", "height": 6, "width": 8}],
        "annotations": [
            {
                "image_id": image_id,
                "file_name": "x_1.png",
                "segments_info": [
                    {"id": 70000, "category_id": list(things)[1], "iscrowd": 0, "area": 6},
                    {"id": 5, "category_id": stuff, "iscrowd": 0, "area": 42},
                ],
            }
        ],
        "categories": [],
    }
    write_json(root / panoptic_json, content)
    return content


@pytest.mark.parametrize("image_id", [17, "x_1"])
@pytest.mark.parametrize("name", PANOPTIC_FILES)
def test_panoptic_loader(root, name, image_id):
    write_panoptic(root, name, image_id)
    metadata = MetadataCatalog.get(name)
    (record,) = DatasetCatalog.get(name)
    assert record["image_id"] == image_id
    assert (record["height"], record["width"]) == (6, 8)
    for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name"):
        assert Path(record[key]).is_file()
    thing, stuff = record["segments_info"]
    assert thing["category_id"] == list(metadata.thing_dataset_id_to_contiguous_id.values())[1]
    assert thing["isthing"] is True and stuff["isthing"] is False
    assert stuff["category_id"] not in metadata.thing_dataset_id_to_contiguous_id.values()
    sample = CocoPanopticLSJ(augmentations=(), image_format="RGB")(record)
    assert sample["instances"].gt_masks.flatten(1).sum(1).tolist() == [6, 42]


def test_semantic_maps_of_coco_are_made(root):
    name = "coco_2017_val_panoptic_with_sem_seg"
    write_panoptic(root, name)
    maps = root / PANOPTIC_FILES[name][3]
    shutil.rmtree(maps)
    (record,) = DatasetCatalog.get(name)
    assert record["sem_seg_file_name"] == str(maps / "x_1.png")
    thing, stuff = (segment["category_id"] for segment in record["segments_info"])
    semantic = np.asarray(Image.open(record["sem_seg_file_name"]))
    assert semantic.dtype == np.uint8
    assert (semantic[2:4, 2:5] == thing).all()
    assert (semantic == stuff).sum() == 42

    Image.fromarray(np.full((6, 8), 7, np.uint8)).save(maps / "x_1.png")
    DatasetCatalog.get(name)
    assert (np.asarray(Image.open(maps / "x_1.png")) == 7).all()  # made once


def test_semantic_maps_that_cannot_be_made(root, monkeypatch):
    name = "coco_2017_val_panoptic_with_sem_seg"
    write_panoptic(root, name)
    maps = root / PANOPTIC_FILES[name][3]
    shutil.rmtree(maps)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        OutputError,
        match=r"panoptic_semseg_val2017: .*made of .*panoptic_val2017: Permission denied",
    ):
        DatasetCatalog.get(name)
    assert not maps.exists()


def test_what_ade20k_misses_says_what_it_is_made_of(root):
    name = "ade20k_panoptic_train"
    write_panoptic(root, name)
    shutil.rmtree(root / PANOPTIC_FILES[name][3])
    with pytest.raises(DataError, match=r"annotations_detectron2/.* made .*annotations/training "):
        DatasetCatalog.get(name)
    with pytest.raises(DataError, match=r"instance_train\.json: .* made .*annotations_instance/"):
        DatasetCatalog.get("ade20k_instance_train")


@pytest.mark.parametrize(
    ("name", "present", "message"),
    [
        ("ade20k_sem_seg_train", "images/training", r"annotations_detectron2.*/annotations/train"),
        ("ade20k_panoptic_train", "images/training", r"panoptic_train .*annotations_instance/tra"),
        ("ade20k_instance_train", "images/training", r"json_file of the data set"),
        ("ade20k_instance_train", "other", r"image_root of .*DATASETS\.TRAIN.*\n.*DETECTRON2_DAT"),
    ],
)
def test_training_files_are_looked_for(root, name, present, message):
    register_all_ade20k(str(root))
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (name,)
    (root / "ADEChallengeData2016" / present).mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        require_training_files(cfg)


@pytest.fixture
def cityscapes(empty_catalogs, tmp_path) -> Path:
    """Folder of the data set, which has its photos and ``gtFine``."""
    register_all_cityscapes_panoptic(str(tmp_path))
    register_all(str(tmp_path))
    folder = tmp_path / "cityscapes"
    picture(folder / "leftImg8bit/train/city/a_leftImg8bit.png", np.zeros((4, 4, 3), np.uint8))
    (folder / "gtFine/train").mkdir(parents=True)
    return folder


def test_what_cityscapes_misses_says_how_it_is_made(cityscapes):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("cityscapes_fine_panoptic_train",)
    (cityscapes / "gtFine/train").rmdir()
    for require in (require_training_files, lambda _: DatasetCatalog.get(cfg.DATASETS.TRAIN[0])):
        with pytest.raises(DataError, match=r"gtFine/train"):
            require(cfg)


def test_what_detectron2s_loader_misses_is_no_bug(cityscapes):
    panoptic = cityscapes / "gtFine/cityscapes_panoptic_train"
    picture(panoptic / "a_gtFine_panoptic.png", np.zeros((4, 4, 3), np.uint8))
    annotation = {"image_id": "a", "file_name": "a_gtFine_panoptic.png", "segments_info": []}
    write_json(Path(f"{panoptic}.json"), {"annotations": [annotation]})
    with pytest.raises(DataError, match=r"panoptic_train'.*createTrainIdLabelImgs"):
        DatasetCatalog.get("cityscapes_fine_panoptic_train")


def test_training_on_a_plain_coco_download(root):
    """Without the folders that scripts make."""
    name = "coco_2017_val_panoptic_with_sem_seg"
    write_panoptic(root, name)
    shutil.rmtree(root / PANOPTIC_FILES[name][3])
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (name,)
    require_training_files(cfg)


def test_unknown_category_is_named(root):
    name = "ade20k_panoptic_train"
    content = write_panoptic(root, name)
    content["annotations"][0]["segments_info"][0]["category_id"] = 999
    write_json(root / PANOPTIC_FILES[name][1], content)
    with pytest.raises(DataError, match=r"ade20k_panoptic_train\.json.*70000 of x_1\.png.*999"):
        DatasetCatalog.get(name)


def test_a_broken_annotation_is_named(root):
    name = "ade20k_panoptic_train"
    content = write_panoptic(root, name)
    content["annotations"][0]["segments_info"][0]["id"] = []
    write_json(root / PANOPTIC_FILES[name][1], content)
    with pytest.raises(DataError, match=r"segment \[\] of x_1\.png: 'id': expected an integer"):
        DatasetCatalog.get(name)
    del content["annotations"][0]["segments_info"]
    write_json(root / PANOPTIC_FILES[name][1], content)
    with pytest.raises(DataError, match=r"annotation number 1: 'segments_info' is missing"):
        DatasetCatalog.get(name)


def test_unknown_category_makes_no_semantic_maps(root):
    name = "coco_2017_val_panoptic_with_sem_seg"
    content = write_panoptic(root, name)
    content["annotations"][0]["segments_info"][0]["category_id"] = 999
    write_json(root / PANOPTIC_FILES[name][1], content)
    shutil.rmtree(root / PANOPTIC_FILES[name][3])
    with pytest.raises(DataError, match=r"panoptic_val2017\.json: .*the category id 999"):
        DatasetCatalog.get(name)
    assert not (root / PANOPTIC_FILES[name][3]).exists()


def test_missing_photo_is_named(root):
    name = "ade20k_panoptic_train"
    write_panoptic(root, name)
    (root / PANOPTIC_FILES[name][0] / "x_1.jpg").unlink()
    with pytest.raises(DataError, match=r"x_1\.jpg"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize(
    ("name", "images", "maps", "suffix"),
    [
        (
            "ade20k_full_sem_seg_val",
            "ADE20K_2021_17_01/images_detectron2/validation",
            "ADE20K_2021_17_01/annotations_detectron2/validation",
            "tif",
        ),
        (
            "coco_2017_test_stuff_10k_sem_seg",
            "coco/coco_stuff_10k/images_detectron2/test",
            "coco/coco_stuff_10k/annotations_detectron2/test",
            "png",
        ),
        (
            "mapillary_vistas_sem_seg_train",
            "mapillary_vistas/training/images",
            "mapillary_vistas/training/labels",
            "png",
        ),
    ],
)
def test_semantic_loader(root, name, images, maps, suffix):
    for stem in ("b", "a"):
        picture(root / images / f"{stem}.jpg", np.zeros((4, 5, 3), dtype=np.uint8))
        picture(root / maps / f"{stem}.{suffix}", np.zeros((4, 5), dtype=np.uint16))
    records = DatasetCatalog.get(name)
    assert [Path(record["file_name"]).name for record in records] == ["a.jpg", "b.jpg"]
    assert [Path(record["sem_seg_file_name"]).stem for record in records] == ["a", "b"]


def test_instance_loader_of_ade20k(root):
    name, folder = "ade20k_instance_val", root / "ADEChallengeData2016"
    things = [category for category in load_categories("ade20k_150") if category["isthing"]]
    picture(folder / "images/validation/x_1.jpg", np.zeros((6, 8, 3), dtype=np.uint8))
    annotation = {
        "id": 1,
        "image_id": "x_1",
        "category_id": things[2]["id"],
        "iscrowd": 0,
        "bbox": [0, 0, 4, 4],
        "area": 16,
        "segmentation": [[0.0, 0, 4, 0, 4, 4, 0, 4]],
    }
    content = {
        "images": [{"id": "x_1", "file_name": "x_1.jpg", "height": 6, "width": 8}],
        "annotations": [annotation],
        # Names of the official files differ: "windowpane" for "window ".
        "categories": [{"id": thing["id"], "name": f"{thing['name']}pane"} for thing in things],
    }
    write_json(folder / "ade20k_instance_val.json", content)
    (record,) = DatasetCatalog.get(name)
    assert record["image_id"] == "x_1"
    assert record["annotations"][0]["category_id"] == 2
    annotation["category_id"] = 0  # wall
    write_json(folder / "ade20k_instance_val.json", content)
    with pytest.raises(DataError, match=r"instance_val\.json.*category id 0,"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize(
    "name", [*PANOPTIC_FILES, "ade20k_instance_val", "ade20k_full_sem_seg_val"]
)
def test_absent_data_say_what_to_prepare(root, name):
    with pytest.raises(DataError, match=f"'{name}'.*\n.*{root}") as error:
        DatasetCatalog.get(name)
    assert "DETECTRON2_DATASETS" in str(error.value)


def test_registering_again_changes_nothing(root):
    before = dict(DatasetCatalog.data)
    register_all("elsewhere")
    assert dict(DatasetCatalog.data) == before
    assert str(root) in MetadataCatalog.get("ade20k_panoptic_val").image_root


def test_a_name_of_somebody_else_is_left_alone(empty_catalogs):
    DatasetCatalog.register("ade20k_panoptic_val", list)
    MetadataCatalog.get("ade20k_panoptic_val").set(evaluator_type="theirs")
    register_all("elsewhere")
    assert DatasetCatalog.get("ade20k_panoptic_val") == []
    assert MetadataCatalog.get("ade20k_panoptic_val").evaluator_type == "theirs"
    assert "ade20k_panoptic_train" in DatasetCatalog


def test_loading_waits_for_the_first_use(empty_catalogs, tmp_path):
    register("late", lambda: [{"file_name": "x"}], needs={str(tmp_path / "late"): "a file"})
    with pytest.raises(DataError, match="late: a file"):
        DatasetCatalog.get("late")
    (tmp_path / "late").touch()
    assert DatasetCatalog.get("late") == [{"file_name": "x"}]


def test_root_is_that_of_detectron2(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data/sets")
    assert datasets_root() == "/data/sets"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert datasets_root() == "datasets"
