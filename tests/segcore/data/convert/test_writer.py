"""The command: splits, kinds of classes, broken files, a run after another, hostile sources."""

import json
import os

import numpy as np
import pytest
from PIL import ExifTags, Image

from convert_inputs import save, write_json
from segcore.cli.convert import build_parser
from segcore.data.convert.formats import FORMATS
from segcore.data.convert.options import assign_splits, parse_splits
from segcore.data.convert.program import main
from segcore.data.convert.source import AnnotatedPhoto
from segcore.errors import ConfigError, DataError, OutputError

SIZE = (20, 30)


@pytest.fixture
def photos(tmp_path):
    images = tmp_path / "photos"
    for number in range(10):
        save(np.full((*SIZE, 3), 20 * number, np.uint8), images / f"{number}.jpg")
    return images


def shape(label: str = "cat", **changes) -> dict:
    points = [[2, 2], [20, 2], [20, 15]]
    return {"label": label, "shape_type": "polygon", "points": points, **changes}


def write_labelme(path, *shapes: dict, **changes) -> None:
    content = {"shapes": list(shapes), "imagePath": f"{path.stem}.jpg", **changes}
    write_json({"imageHeight": SIZE[0], "imageWidth": SIZE[1], **content}, path)


@pytest.fixture
def labelme(photos):
    for number in range(10):
        write_labelme(photos / f"{number}.json", shape(), shape("lawn", group_id=1))
    return photos


def test_splits_and_config(labelme, convert):
    converted = convert(labelme, "--from", "labelme", "--split", "val=0.2", images=labelme)
    names = {
        split: {photo["file_name"] for photo in converted.json(split)["images"]}
        for split in ("train", "val")
    }
    assert len(names["val"]) == 2 and len(names["train"] | names["val"]) == 10
    config = (converted.output / "data.yaml").read_text()
    assert "TRAIN:" in config and "TEST:" in config
    assert f'JSON: "{converted.output / "val" / "panoptic.json"}"' in config


def test_splits_do_not_depend_on_the_order():
    photos = [AnnotatedPhoto(f"{i}.jpg", (), lambda size: None) for i in range(50)]
    shares = parse_splits(["val=0.2", "test=0.1"])
    first, second = assign_splits(photos, shares), assign_splits(photos[::-1], shares)
    assert first == second
    assert {name: len(members) for name, members in first.items()} == {
        "train": 35,
        "val": 10,
        "test": 5,
    }


@pytest.mark.parametrize(
    "text", ["val", "val=2", "val=x", "=0.1", "train=0.5", "../a=0.1", "val=nan"]
)
def test_wrong_splits(text):
    with pytest.raises(ConfigError, match="expected a name and its share"):
        parse_splits([text])


def test_more_wrong_splits():
    with pytest.raises(ConfigError, match="nothing is left"):
        parse_splits(["val=0.5", "test=0.5"])
    with pytest.raises(ConfigError, match="twice"):
        parse_splits(["val=0.1", "val=0.2"])
    photo = AnnotatedPhoto("a.jpg", (), lambda size: None, "val")
    with pytest.raises(ConfigError, match="the source has the splits val"):
        assign_splits([photo], parse_splits(["val=0.1"]))


@pytest.mark.parametrize(
    ("options", "things"),
    [((), [1, 1]), (("--things", "cat"), [1, 0]), (("--stuff", "cat"), [0, 1])],
)
def test_things_and_stuff(labelme, convert, options, things):
    converted = convert(labelme, "--from", "labelme", *options, images=labelme)
    assert [c["isthing"] for c in converted.json()["categories"]] == things


def test_an_unknown_class(labelme, convert):
    with pytest.raises(ConfigError, match=r"--things: no class is named 'Cat'; did you mean cat\?"):
        convert(labelme, "--from", "labelme", "--things", "Cat", images=labelme)


def test_a_second_run_converts_what_has_changed(labelme, convert):
    command = (labelme, "--from", "labelme")
    first = convert(*command, images=labelme)
    png = first.output / "train" / "panoptic" / "3.png"
    before = png.stat().st_mtime_ns
    assert "(10 of an earlier run)" in convert(*command, images=labelme).printed
    assert png.stat().st_mtime_ns == before

    write_labelme(labelme / "3.json", shape())
    (labelme / "4.json").unlink()
    (first.output / "train" / "panoptic" / "5.png").unlink()
    converted = convert(*command, images=labelme)
    assert "(7 of an earlier run)" in converted.printed
    assert len(converted.annotation("3.jpg")[1]) == 1
    assert {path.name for path in png.parent.iterdir()} == {
        f"{number}.png" for number in range(10) if number != 4
    }
    # Another decision has everything made anew.
    assert "(0 of an earlier run)" in convert(*command, "--stuff", "lawn", images=labelme).printed


def test_a_killed_run_goes_on(labelme, convert):
    command = (labelme, "--from", "labelme")
    output = convert(*command, images=labelme).output
    log = output / "converted.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    (output / "train" / "panoptic.json").unlink()
    assert "(4 of an earlier run)" in convert(*command, images=labelme).printed


def test_the_log_removes_nothing_outside(tmp_path, labelme, convert):
    output = convert(labelme, "--from", "labelme", images=labelme).output
    (tmp_path / "precious.png").write_text("")
    with open(output / "converted.jsonl", "a") as log:
        for split, png in (("train", "../../../precious.png"), ("..", "precious.png")):
            log.write(json.dumps({"fingerprint": png, "split": split, "png": png}) + "\n")
    convert(labelme, "--from", "labelme", images=labelme)
    assert (tmp_path / "precious.png").exists()


def test_a_folder_of_other_files_is_left_alone(tmp_path, labelme, convert):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mine.txt").write_text("")
    with pytest.raises(OutputError, match="has files of another origin"):
        convert(labelme, "--from", "labelme", images=labelme)


def test_broken_files_are_listed(labelme, convert):
    """Everything else is converted, and the exit code says that something was left out."""
    (labelme / "0.json").write_text("{")
    write_labelme(labelme / "1.json", shape(points=[[0, 0], [9, 9], [1e6, 9]]))
    write_labelme(labelme / "2.json", shape(), imageHeight=21)
    write_labelme(labelme / "3.json", shape(), imagePath="../../secret.jpg")
    (labelme / "4.jpg").write_bytes((labelme / "4.jpg").read_bytes()[:200])
    save(np.zeros((*SIZE, 3), np.uint8), labelme / "5.png")
    write_labelme(labelme / "5_more.json", shape(), imagePath="5.png")
    converted = convert(labelme, "--from", "labelme", images=labelme, expected_code=1)
    listed = (converted.output / "problems.txt").read_text()
    for words in (
        "0.json: not a JSON file",
        "1.jpg: shape 1 ('cat'): expected points of a polygon on the photo",
        "2.jpg: the JSON says 30 x 21, but the photo as shown is 30 x 20",
        "3.json: its photo '../../secret.jpg' is not in",
        "4.jpg: cannot read the image",
        "5.png: has the name of 5.jpg but for folder or suffix",
    ):
        assert words in listed
    assert "6 files" in converted.printed
    assert len(converted.json()["images"]) == 5

    for number in range(5):
        write_labelme(labelme / f"{number}.json", shape())
    save(np.zeros((*SIZE, 3), np.uint8), labelme / "4.jpg")
    (labelme / "5_more.json").unlink()
    converted = convert(labelme, "--from", "labelme", images=labelme)
    assert not (converted.output / "problems.txt").exists()


def test_labelme_of_other_programs(labelme, convert):
    """Windows' names, lines and marks; corners of X-AnyLabeling; a click too many; macOS' files."""
    os.rename(labelme / "0.jpg", labelme / "0.JPG")
    write_labelme(labelme / "0.json", shape(), imagePath="C:\\Users\\me\\0.jpg")
    text = (labelme / "0.json").read_text().replace(",", ",\r\n")
    (labelme / "0.json").write_bytes(text.encode("utf-8-sig"))
    (labelme / "._0.json").write_bytes(b"\0\5\x16\7")
    corners = [[2, 2], [8, 2], [8, 6], [2, 6]]
    kinds = ("rectangle", "rotation", None)
    shapes = [shape(points=corners, shape_type=kind) for kind in kinds]
    write_labelme(labelme / "1.json", *shapes, shape(points=corners[:2]), shape(points=[]))
    converted = convert(labelme, "--from", "labelme", images=labelme)
    assert len(converted.annotation("0.JPG")[1]) == 1
    assert "left out: 2 polygons of fewer than 3 points" in converted.printed
    ((_, mask, _),) = converted.masks("1.jpg")
    assert mask.sum() == 6 * 4


def test_a_name_in_two_cases_is_no_guess(labelme, convert):
    write_labelme(labelme / "0.json", shape(), imagePath="a.jpg")
    for name in ("A.jpg", "a.JPG"):
        save(np.zeros((*SIZE, 3), np.uint8), labelme / name)
    converted = convert(labelme, "--from", "labelme", images=labelme, expected_code=1)
    assert "0.json: its photo 'a.jpg' is not in" in (converted.output / "problems.txt").read_text()


def test_nothing_converted_names_no_config(photos, capsys):
    write_labelme(photos / "0.json", shape(), imageHeight=21)
    arguments = [photos, "--from", "labelme", "--output", photos / "output"]
    assert main(build_parser().parse_args(list(map(str, arguments)))) == 1
    assert "data.yaml" not in capsys.readouterr().out


def test_an_exif_orientation(tmp_path, convert):
    """Photos are turned as they are shown, as tools in a browser annotate them."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    (tmp_path / "photos").mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "photos" / "0.jpg", exif=exif)  # stored as 20 x 30
    write_labelme(tmp_path / "photos" / "0.json", shape())
    arguments = [tmp_path / "photos", "--from", "labelme", "--output", tmp_path / "output"]
    assert main(build_parser().parse_args(list(map(str, arguments)))) == 0
    photo = json.loads((tmp_path / "output" / "train" / "panoptic.json").read_text())["images"][0]
    assert (photo["height"], photo["width"]) == SIZE


COCO = {
    "images": [{"id": 1, "file_name": "0.jpg", "height": 20, "width": 30}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    ],
    "categories": [{"id": 1, "name": "cat"}],
}


def changed(*path: object, value: object) -> dict:
    content = json.loads(json.dumps(COCO))
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a COCO instances JSON"),
        (changed("categories", 0, "name", value=7), "a category: 'name': expected a text"),
        (changed("categories", value=2 * COCO["categories"]), "2 categories have the id 1"),
        (changed("annotations", 0, "segments_info", value=[]), "COCO panoptic format already"),
        (changed("images", 0, "file_name", value="/etc/passwd"), "its photo"),
        (changed("images", 0, "width", value=31), "the JSON says 31 x 20"),
        (changed("images", 0, "height", value="x"), "'height': expected an integer"),
        (changed("annotations", 0, "category_id", value=2), "no category has the id 2"),
        (changed("annotations", 0, "segmentation", value="x"), "expected polygons or run lengths"),
        (changed("annotations", 0, "segmentation", value=[[1e9] * 6]), "expected a polygon"),
        (changed("annotations", 0, "image_id", value=[1]), "no image has"),
    ],
)
def test_faulty_coco(photos, content, message):
    path = write_json(content, photos / "instances.json")
    arguments = [path, "--from", "coco", "--images", photos, "--output", photos / "output"]
    try:
        assert main(build_parser().parse_args(list(map(str, arguments)))) == 1
        text = (photos / "output" / "problems.txt").read_text()
    except DataError as error:
        text = str(error)
    assert message in text


def test_coco_polygons_of_few_points_are_left_out(photos, convert):
    """With their annotation where it has no other; the photo stays."""
    content = changed("annotations", 0, "segmentation", value=[[1, 1, 9, 9], [1, 1, 9, 1, 9, 9]])
    click = {**content["annotations"][0], "id": 2, "segmentation": [[1, 1], []]}
    content["annotations"].append(click)
    converted = convert(write_json(content, photos / "a.json"), "--from", "coco", images=photos)
    assert len(converted.annotation("0.jpg")[1]) == 1
    assert "left out: 1 polygons of fewer than 3 points" in converted.printed


def test_coco_categories_of_one_name_are_one_class(photos, convert):
    content = changed("categories", value=[{"id": i, "name": "cat"} for i in (0, 1, 7)])
    content["annotations"].append(
        {**content["annotations"][0], "id": 2, "category_id": 7}
        | {"segmentation": [[12, 1, 20, 1, 20, 9]]}
    )
    converted = convert(write_json(content, photos / "a.json"), "--from", "coco", images=photos)
    assert [c["id"] for c in converted.json()["categories"]] == [0]
    assert [s["category_id"] for s in converted.annotation("0.jpg")[1]] == [0, 0]


def test_coco_boxes_are_counted(photos, capsys):
    path = write_json(changed("annotations", 0, "segmentation", value=[]), photos / "a.json")
    arguments = [path, "--from", "coco", "--images", photos, "--output", photos / "output"]
    assert main(build_parser().parse_args(list(map(str, arguments)))) == 0
    assert "left out: 1 annotations without an outline" in capsys.readouterr().out


def test_roboflow_folders(photos, convert):
    """Splits are folders, with the photos beside the JSON."""
    for folder, number in (("train", 0), ("valid", 1)):
        target = photos / folder / f"{number}.jpg"
        target.parent.mkdir()
        os.rename(photos / f"{number}.jpg", target)
        content = changed("images", 0, "file_name", value=f"{number}.jpg")
        write_json(content, photos / folder / "_annotations.coco.json")
    converted = convert(photos, "--from", "coco", images=photos)
    assert [p["file_name"] for p in converted.json("train")["images"]] == ["train/0.jpg"]
    assert [p["file_name"] for p in converted.json("val")["images"]] == ["valid/1.jpg"]


def test_z_order_of_coco(photos, convert):
    content = json.loads(json.dumps(COCO))
    small, large = content["annotations"][0], dict(content["annotations"][0], id=2)
    large["segmentation"] = [[0, 0, 29, 0, 29, 19, 0, 19]]
    small["attributes"], large["attributes"] = {"z_order": 1}, {"z_order": 2}
    content["annotations"].append(large)
    path = write_json(content, photos / "instances.json")
    converted = convert(path, "--from", "coco", images=photos)
    assert len(converted.annotation("0.jpg")[1]) == 1
    assert "left out: 1 segments that others cover completely" in converted.printed


MERGES = "\n".join(f"k{n}: &k{n} {{<<: [{', '.join([f'*k{n - 1}'] * 9)}]}}" for n in range(1, 30))
YOLO_FAULTS = {
    "names: [a, b, a]": "2 classes are named 'a': rename one",
    "names: !!python/object/apply:os.system ['echo']": "class names under 'names'.* got 0",
    "names: 7": "class names under 'names'.* got 0",
    "path: .": "class names under 'names'.* got 0",
    "names: {1: a}": "expected 'names' of the classes 0 to 0",
    "names: [[a]]": "'names': expected a text",
    "a: [": "no valid YAML",
    "[" * 10_000: "no valid YAML",
    f"k0: &k0 {{a: b}}\n{MERGES}\nnames: *k29": "expected 'names' of the classes",
}


@pytest.mark.parametrize("text", YOLO_FAULTS)
def test_faulty_data_yaml(photos, convert, text):
    (photos / "data.yaml").write_text(text)
    (photos / "labels").mkdir()
    (photos / "labels" / "0.txt").touch()
    with pytest.raises(DataError, match=YOLO_FAULTS[text]):
        convert(photos, "--from", "yolo", images=photos)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("5 .1 .1 .2 .2 .3 .1", "line 1: expected a class from 0 to 0, got 5"),
        ("0 .1 .1 .2 x .3 .1", "line 1: expected numbers"),
        ("0 .1 .1 nan .2 .3 .1", "line 1: expected"),
        ("0 .1 .1 .2 .2 .3", "line 1: expected a polygon"),
        ("nan .1 .1 .2 .2 .3 .1", "line 1: expected a class"),
        ("0 9 9 2 2 3 1", "line 1: expected points of a polygon on the photo"),
    ],
)
def test_faulty_yolo_labels(photos, line, message):
    (photos / "data.yaml").write_text("names: [a]")
    for folder, name in (("images", "0.jpg"), ("labels", "0.txt")):
        (photos / folder).mkdir()
        (photos / folder / name).write_bytes((photos / "0.jpg").read_bytes())
    (photos / "labels" / "0.txt").write_text(line)
    arguments = [photos, "--from", "yolo", "--output", photos / "output"]
    assert main(build_parser().parse_args(list(map(str, arguments)))) == 1
    assert message in (photos / "output" / "problems.txt").read_text()


@pytest.mark.parametrize("name", ["voc", "yolo", "cityscapes", "mapillary", "ade20k"])
def test_formats_of_one_folder(photos, convert, name):
    with pytest.raises(DataError, match=r"expected one source of this format, got .*photos, "):
        convert(photos, photos, "--from", name, images=photos)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_folder(tmp_path, photos, convert, name):
    (tmp_path / "empty").mkdir()
    classes = tmp_path / "classes.txt"
    classes.write_text("a\n")
    with pytest.raises(DataError, match=r"expected files|cannot be read"):
        convert(tmp_path / "empty", "--from", name, "--classes", classes, images=photos)


def test_yolo_of_other_programs(photos, convert):
    """Windows' lines and marks, a box among polygons, the list of classes of Label Studio."""
    (photos / "data.yaml").write_bytes("\ufeffnames:\r\n  0: a\r\n  1: b\r\n".encode())
    label = photos / "labels" / "0.txt"
    label.parent.mkdir()
    label.write_bytes("\ufeff1 .1 .1 .5 .1 .5 .5\r\n0 .5 .5 .2 .2\r\n\r\n".encode())
    (photos / "labels" / "classes.txt").write_text("a\nb\n")
    converted = convert(photos, "--from", "yolo", images=photos)
    assert [name for name, _, _ in converted.masks("0.jpg")] == ["b"]
    assert "left out: 1 lines that are a box, not a polygon" in converted.printed


def test_voc_maps_in_upper_case(photos, convert):
    """The instances belong to them: without, the two things would be a crowd."""
    values = np.zeros(SIZE, np.uint8)
    values[:5], values[10:] = 1, 2
    save(np.where(values > 0, 8, 0).astype(np.uint8), photos / "SegmentationClass" / "0.PNG")
    save(values, photos / "SegmentationObject" / "0.PNG")
    converted = convert(photos, "--from", "voc", images=photos)
    assert [crowd for _, _, crowd in converted.masks("0.jpg")] == [0, 0]
