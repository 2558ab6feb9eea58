"""Converted data against readers that are not ours: pycocotools, supervision, torchvision, PIL."""

import base64
import io
import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torchvision
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from scipy.ndimage import binary_dilation, binary_erosion

from convert_inputs import PHOTOS, ring, save, write_json
from segcore.data.convert.formats.voc import standard_palette
from segcore.data.datasets.ade20k_files import make_panoptic
from segcore.data.json_file import read_json
from segcore.data.panoptic_format import read_panoptic_png

FIRST, SECOND = PHOTOS
POLYGONS = {
    "triangle": [[5.0, 4.0, 30.5, 8.0, 12.0, 30.0]],
    "two parts": [[2, 32, 12, 32, 12, 39, 2, 39], [40, 5, 52, 5.5, 45, 12]],
    "small": [[14.0, 10.0, 20.0, 10.0, 20.0, 15.0, 14.0, 15.0]],
}


@pytest.fixture
def coco_json(tmp_path):
    """Polygons that overlap, run lengths of both kinds with a hole, a crowd, a photo without."""
    images, annotations = [], []
    for number, (name, size) in enumerate(PHOTOS.items(), start=5):
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
    rle = mask_util.encode(np.asfortranarray(ring(PHOTOS[FIRST]), dtype=np.uint8))
    crowd = np.zeros(PHOTOS[SECOND], dtype=np.uint8, order="F")
    crowd[20:, 3:30] = 1
    changes = np.flatnonzero(np.diff(crowd.ravel("F"))) + 1
    runs = np.diff(np.r_[0, changes, crowd.size])
    segmentations = [
        (5, 3, 0, POLYGONS["triangle"]),
        (5, 3, 0, POLYGONS["two parts"]),
        (5, 7, 0, POLYGONS["small"]),
        (5, 7, 0, {"size": list(PHOTOS[FIRST]), "counts": rle["counts"].decode()}),
        (6, 7, 1, {"size": list(PHOTOS[SECOND]), "counts": runs.tolist()}),
        (6, 3, 0, [[3.0, 3.0, 20.0, 3.0, 20.0, 12.0]]),
    ]
    for number, (image_id, category_id, is_crowd, segmentation) in enumerate(segmentations, 1):
        annotation = {"image_id": image_id, "category_id": category_id, "iscrowd": is_crowd}
        annotation |= {"id": number, "segmentation": segmentation, "bbox": [0, 0, 1, 1], "area": 1}
        annotations.append(annotation)
    categories = [{"id": 3, "name": "猫"}, {"id": 7, "name": "ring"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write_json(content, tmp_path / "instances.json")


def visible_masks(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Masks without the pixels that smaller ones cover."""
    order = sorted(range(len(masks)), key=lambda i: masks[i].sum())
    covered, visible = np.zeros_like(masks[0]), [None] * len(masks)
    for index in order:
        visible[index] = masks[index] & ~covered
        covered |= masks[index]
    return visible


def test_coco_against_pycocotools(coco_json, images, convert):
    converted = convert(coco_json, "--from", "coco", images=images)
    coco = COCO(coco_json)
    num_pixels = 0
    for record in coco.dataset["images"]:
        annotations = coco.loadAnns(coco.getAnnIds(record["id"]))
        masks = [coco.annToMask(annotation).astype(bool) for annotation in annotations]
        num_pixels += int((np.sum(masks, axis=0) > 1).sum())
        expected = [
            (coco.cats[annotation["category_id"]]["name"], mask, annotation["iscrowd"])
            for annotation, mask in zip(annotations, visible_masks(masks), strict=True)
        ]
        ours = converted.masks(record["file_name"])
        assert len(ours) == len(expected)
        for name, mask, is_crowd in expected:
            assert any(name == n and is_crowd == c and np.array_equal(mask, m) for n, m, c in ours)
    assert num_pixels > 0
    assert f"{num_pixels} pixels" in converted.printed
    assert [(c["id"], c["isthing"]) for c in converted.json()["categories"]] == [(3, 1), (7, 1)]


def assert_alike(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """Each mask of theirs, a pixel narrower, lies in one of ours, which lies in it a pixel wider:
    pycocotools, OpenCV and Pillow draw outlines by different conventions."""
    assert len(ours) == len(theirs) > 0
    for mask in theirs:
        inner = binary_erosion(mask, np.ones((3, 3)))
        outer = binary_dilation(mask, np.ones((3, 3)))
        assert any(not (inner & ~other).any() and not (other & ~outer).any() for other in ours)


def test_coco_against_supervision(tmp_path, coco_json, images, convert):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    content = read_json(coco_json)
    del content["annotations"][0]  # its tips over another mask differ by pixels
    for annotation in content["annotations"]:  # it reads run lengths of crowds alone
        annotation["iscrowd"] = int(isinstance(annotation["segmentation"], dict))
    write_json(content, coco_json)
    converted = convert(coco_json, "--from", "coco", images=images)
    data = supervision.DetectionDataset.from_coco(str(images), str(coco_json), force_masks=True)
    for path, _, detections in data:
        name = os.path.relpath(path, images)
        masks = visible_masks(list(np.asarray(detections.mask, dtype=bool)))
        assert_alike([mask for _, mask, _ in converted.masks(name)], masks)


@pytest.fixture
def yolo(tmp_path, images):
    root = tmp_path / "yolo"
    for name, size in PHOTOS.items():
        split = "train" if name == FIRST else "valid"
        stem = name.rsplit("/")[-1].rpartition(".")[0]
        target = root / split / "images" / name.rsplit("/")[-1]
        target.parent.mkdir(parents=True)
        target.write_bytes((images / name).read_bytes())
        lines = []
        for number, polygons in enumerate(POLYGONS.values() if name == FIRST else ()):
            points = np.reshape(polygons[0], (-1, 2)) / size[::-1]
            lines.append(f"{number % 2} " + " ".join(f"{value:.6f}" for value in points.ravel()))
        lines += ["1 0.7 0.7 0.9 0.7 0.9 0.9"]
        label = root / split / "labels" / f"{stem}.txt"
        label.parent.mkdir(parents=True)
        label.write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: ../train/images\nnames: [chat, été]\n")
    return root


def test_yolo_against_supervision(tmp_path, yolo, convert):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    converted = convert(yolo, "--from", "yolo", images=yolo)
    for split, folder in (("train", "train"), ("val", "valid")):
        data = supervision.DetectionDataset.from_yolo(
            str(yolo / folder / "images"),
            str(yolo / folder / "labels"),
            str(yolo / "data.yaml"),
            force_masks=True,
        )
        ((path, _, detections),) = data
        masks = visible_masks(list(np.asarray(detections.mask, dtype=bool)))
        ours = converted.masks(os.path.relpath(path, yolo), split)
        assert_alike([mask for _, mask, _ in ours], masks)
        names = [data.classes[index] for index in detections.class_id]
        assert sorted(name for name, _, _ in ours) == sorted(names)


def test_yolo_against_pillow(yolo, convert):
    """Names of the splits are those of folders; polygons of one shape as Pillow fills them."""
    converted = convert(yolo / "data.yaml", "--from", "yolo", images=yolo)
    (photo,) = converted.json("val")["images"]
    ((name, mask, _),) = converted.masks(photo["file_name"], "val")
    assert name == "été"
    height, width = PHOTOS[SECOND]
    picture = Image.new("1", (width, height))
    corners = [(0.7, 0.7), (0.9, 0.7), (0.9, 0.9)]
    ImageDraw.Draw(picture).polygon([(x * width, y * height) for x, y in corners], fill=1)
    assert_alike([mask], [np.asarray(picture)])


def test_labelme_against_pillow(tmp_path, images, convert):
    """LabelMe fills its shapes by Pillow."""
    height, width = size = PHOTOS[FIRST]
    hole = ring(size)[10:30, 15:45]
    content = io.BytesIO()
    Image.fromarray(hole).save(content, "PNG")
    shapes = [
        {"label": "tri", "shape_type": "polygon", "points": [[2, 2], [30, 4], [10, 38]]},
        {"label": "box", "shape_type": "rectangle", "points": [[50, 30], [40, 2]]},
        {"label": "disc", "shape_type": "circle", "points": [[48, 35], [48, 40]]},
        {"label": "line", "shape_type": "line", "points": [[1, 1], [2, 2]]},
        {"label": "ring", "shape_type": "mask", "points": [[15, 10], [44, 29]]},
        {"label": "box", "points": [[2, 30], [8, 30], [8, 39]], "group_id": 4},
        {"label": "box", "points": [[52, 20], [56, 20], [56, 28]], "group_id": 4},
    ]
    shapes[4]["mask"] = base64.b64encode(content.getvalue()).decode()
    data = {"version": "5.4", "imagePath": "..\\größe\\Фото 1.jpg", "shapes": shapes}
    data |= {"imageHeight": height, "imageWidth": width, "imageData": None}
    write_json(data, images / "größe" / "Фото 1.json")
    converted = convert(images, "--from", "labelme", images=images)

    def draw(kind, *points):
        picture = Image.new("1", (width, height))
        getattr(ImageDraw.Draw(picture), kind)([tuple(p) for p in points], fill=1)
        return np.asarray(picture)

    whole = np.zeros(size, dtype=bool)
    whole[10:30, 15:45] = hole
    group = draw("polygon", *shapes[5]["points"]) | draw("polygon", *shapes[6]["points"])
    masks = [
        draw("polygon", *shapes[0]["points"]),
        draw("rectangle", (40, 2), (49, 29)),
        draw("ellipse", (43, 30), (53, 40)),
        whole,
        group,
    ]
    ours = converted.masks(FIRST)
    assert_alike([mask for _, mask, _ in ours], visible_masks(masks))
    assert sorted(name for name, _, _ in ours) == ["box", "box", "disc", "ring", "tri"]
    assert "1 shapes without an area (line)" in converted.printed
    names = [category["name"] for category in converted.json()["categories"]]
    assert names == ["box", "disc", "line", "ring", "tri"]


def voc_folder(root, with_instances: bool, palette: list[int]):
    classes, instances = np.zeros((2, *PHOTOS[SECOND]), dtype=np.uint8)
    classes[4:20, 4:16] = 8  # cat
    classes[4:20, 16:30] = 8
    instances[4:20, 4:16], instances[4:20, 16:30] = 1, 2
    classes[24:, :] = 15  # person
    instances[24:, :] = 3
    classes[3, 4:30] = instances[3, 4:30] = 255
    save(classes, root / "SegmentationClass" / "a.png", palette)
    if with_instances:
        save(instances, root / "SegmentationObject" / "a.png", palette)
    save(np.zeros((*classes.shape, 3), np.uint8), root / "JPEGImages" / "a.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\n")
    return classes, instances


@pytest.mark.parametrize("with_instances", [True, False])
def test_voc_against_torchvision(tmp_path, convert, with_instances):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    _, instances = voc_folder(root, with_instances, standard_palette(256).ravel().tolist())
    kinds = () if with_instances else ("--stuff", "person")
    converted = convert(root, "--from", "voc", *kinds, images=root / "JPEGImages")
    ((_, target),) = torchvision.datasets.VOCSegmentation(tmp_path, "2012", "val")
    expected = np.asarray(target).astype(int)
    expected[(expected == 0) | (expected == 255)] = -1
    np.testing.assert_array_equal(converted.semantic("a.jpg", "val"), expected)
    masks = converted.masks("a.jpg", "val")
    if with_instances:
        for value in (1, 2, 3):
            assert any(np.array_equal(instances == value, mask) for _, mask, _ in masks)
    assert [crowd for _, _, crowd in masks] == ([0, 0, 0] if with_instances else [1, 0])
    assert ("1 segments are crowds" in converted.printed) == (not with_instances)


def test_voc_in_colors(tmp_path, convert):
    """The form of CVAT: RGB, with labelmap.txt."""
    root, colors = tmp_path / "voc", {8: (10, 20, 30), 15: (250, 0, 7), 0: (0, 0, 0)}
    classes, instances = voc_folder(root, True, [0] * 768)
    table = np.zeros((256, 3), dtype=np.uint8)
    for value, color in colors.items():
        table[value] = color
    save(table[classes], root / "SegmentationClass" / "a.png")
    save(standard_palette(256)[instances], root / "SegmentationObject" / "a.png")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\n猫:10,20,30::\nman:250,0,7::\n"
    )
    converted = convert(root, "--from", "voc", images=root / "JPEGImages")
    masks = converted.masks("a.jpg", "val")
    assert sorted(name for name, _, _ in masks) == ["man", "猫", "猫"]
    for value in (1, 2, 3):
        assert any(np.array_equal(instances == value, mask) for _, mask, _ in masks)


@pytest.mark.parametrize(("dtype", "start"), [(np.uint8, 0), (np.uint16, 300)])
def test_semantic_maps_against_pillow(tmp_path, images, convert, dtype, start):
    classes = tmp_path / "classes.txt"
    classes.write_text("\n" * start + "дорога\nsky\ncar\n", encoding="utf-8")
    values = np.full(PHOTOS[FIRST], start, dtype=dtype)
    values[:10], values[30:, 5:9], values[30:, 20:30] = start + 1, start + 2, start + 2
    values[-1] = np.iinfo(dtype).max
    path = save(values, tmp_path / "maps" / "größe" / "Фото 1.png")
    command = (path.parents[1], "--from", "semantic", "--classes", classes, "--things", "car")
    converted = convert(*command, images=images)
    expected = np.asarray(Image.open(path)).astype(int)
    expected[-1] = -1
    np.testing.assert_array_equal(converted.semantic(FIRST), expected)
    assert [crowd for name, _, crowd in converted.masks(FIRST) if name == "car"] == [1]

    converted = convert(*command, "--components", images=images)
    cars = [mask for name, mask, crowd in converted.masks(FIRST) if name == "car" and not crowd]
    assert sorted(mask.sum() for mask in cars) == [4 * 10, 10 * 10]
    np.testing.assert_array_equal(converted.semantic(FIRST), expected)


@pytest.fixture
def cityscapes(tmp_path):
    root, size = tmp_path / "cityscapes", (32, 64)
    ids = np.full(size, 7, dtype=np.uint16)  # road
    ids[:4] = 23  # sky
    ids[10:20, 4:10], ids[10:20, 12:20] = 26_000, 26_001  # cars
    ids[22:25, 30:40] = 26  # a group of cars
    ids[28:] = 3  # out of the region of interest
    base = "a/a_000000_000001"
    save(ids, root / "gtFine" / "val" / f"{base}_gtFine_instanceIds.png")
    for name in ("labelIds", "color"):
        save(ids.astype(np.uint8), root / "gtFine" / "val" / f"{base}_gtFine_{name}.png")
    (root / "gtFine" / "val" / f"{base}_gtFine_polygons.json").write_text("{}")
    save(np.zeros((*size, 3), np.uint8), root / "leftImg8bit" / "val" / f"{base}_leftImg8bit.png")
    return root


def test_cityscapes_against_torchvision(cityscapes, convert):
    converted = convert(cityscapes, "--from", "cityscapes", images=cityscapes / "leftImg8bit")
    data = torchvision.datasets.Cityscapes(cityscapes, "val", "fine", "instance")
    ((_, target),) = data
    ids = np.asarray(target).astype(int)
    names = {c.id: c.name for c in data.classes if not c.ignore_in_eval}
    photo = "val/a/a_000000_000001_leftImg8bit.png"
    ours = converted.masks(photo, "val")
    expected = [i for i in np.unique(ids) if (i if i < 1000 else i // 1000) in names]
    assert len(ours) == len(expected) == 5
    for value in expected:
        name = names[value if value < 1000 else value // 1000]
        is_crowd = int(value == 26)
        assert any(
            name == n and np.array_equal(ids == value, m) and c == is_crowd for n, m, c in ours
        )
    things = {c["name"]: bool(c["isthing"]) for c in converted.json("val")["categories"]}
    assert things == {c.name: c.has_instances for c in data.classes if not c.ignore_in_eval}


def test_mapillary(tmp_path, convert):
    """Values are 256 * label + number (the download's own example)."""
    root = tmp_path / "vistas"
    labels = [("Bird", True, True), ("Curb", False, True), ("Unlabeled", False, False)]
    config = [
        {"name": f"x--{name}", "readable": name, "instances": i, "evaluate": e, "color": [1, 2, 3]}
        for name, i, e in labels
    ]
    write_json({"labels": config, "version": "1.2"}, root / "config.json")
    values = np.full((20, 30), 2 * 256, dtype=np.uint16)
    values[:5], values[8:12, :9], values[8:12, 9:20] = 256, 0, 1
    save(values, root / "validation" / "instances" / "x.png")
    save(np.zeros((20, 30, 3), np.uint8), root / "validation" / "images" / "x.jpg")
    converted = convert(root, "--from", "mapillary", images=root)
    masks = converted.masks("validation/images/x.jpg", "val")
    array = np.asarray(Image.open(root / "validation" / "instances" / "x.png"))
    for value, name in ((256, "Curb"), (0, "Bird"), (1, "Bird")):
        assert any(n == name and np.array_equal(array == value, m) for n, m, _ in masks)
    assert len(masks) == 3


def test_ade20k_against_the_official_form(tmp_path, convert):
    """``make_panoptic`` is held against the official script's golden cases."""
    root, rng = tmp_path / "ADEChallengeData2016", np.random.default_rng(3)
    semantic = np.repeat(rng.integers(0, 151, (6, 8)), 6, axis=0).repeat(5, axis=1).astype(np.uint8)
    instances = np.zeros((*semantic.shape, 3), dtype=np.uint8)
    for number in range(1, 5):
        top, left = rng.integers(0, 25, 2)
        instances[top : top + 9, left : left + 12] = (rng.integers(1, 101), number, 0)
    save(semantic, root / "annotations" / "validation" / "x.png")
    save(instances, root / "annotations_instance" / "validation" / "x.png")
    save(np.zeros_like(instances), root / "images" / "validation" / "x.jpg")
    converted = convert(root, "--from", "ade20k", images=root / "images")
    folders = (root / name / "validation" for name in ("images", "annotations"))
    make_panoptic(
        *folders,
        root / "annotations_instance" / "validation",
        tmp_path / "pngs",
        tmp_path / "panoptic.json",
    )
    official = read_panoptic_png(tmp_path / "pngs" / "x.png")
    (annotation,) = read_json(tmp_path / "panoptic.json")["annotations"]
    ids, segments = converted.annotation("validation/x.jpg", "val")
    classes = {segment["id"]: segment["category_id"] for segment in segments}
    theirs = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
    pairs = np.unique(np.stack([ids, official], -1).reshape(-1, 2), axis=0).tolist()
    assert len(pairs) == len(set(np.unique(ids))) == len(set(np.unique(official)))
    assert all(classes.get(ours, -1) == theirs.get(their, -1) for ours, their in pairs)
