import numpy as np
import pycocotools.mask as mask_util
import pytest
from panopticapi.utils import id2rgb
from PIL import Image

from segcore.data.panoptic_format import (
    contiguous_ids,
    ignore_label,
    locate_segments,
    read_panoptic_json,
    read_panoptic_png,
    to_instances,
    to_semantic,
)
from segcore.errors import DataError

CAR, PERSON = 3, 11


def test_json_is_read(folder):
    assert read_panoptic_json(folder.json) == folder.data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "not in COCO panoptic format"),
        ('{"images": [], "annotations": {}, "categories": []}', "annotations"),
        ('{"images": [], "categories": [1]}', "annotations, categories"),
    ],
)
def test_other_json_is_refused(tmp_path, content, message):
    path = tmp_path / "some.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_panoptic_json(path)
    assert str(path) in str(caught.value)


def test_missing_json_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json"):
        read_panoptic_json(tmp_path / "absent.json")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_png_gives_ids(tmp_path, mode):
    ids = np.random.default_rng(0).integers(0, 256**3, (7, 5), dtype=np.int32)
    Image.fromarray(id2rgb(ids)).convert(mode).save(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_panoptic_png(tmp_path / "ids.png"), ids)


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        ("L", "id2rgb.*grey 7 for example 460551"),
        ("I;16", "id2rgb.*grey 7 for example 460551"),
        ("P", "convert it to RGB if the colors are the ids"),
    ],
)
def test_png_without_colors_is_refused(tmp_path, mode, advice):
    Image.new(mode, (4, 4)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=rf"grey.png.*RGB.*'{mode}'.*{advice}"):
        read_panoptic_png(tmp_path / "grey.png")


def test_grey_as_rgb_is_another_id(tmp_path):
    """The number of the advice."""
    Image.new("L", (1, 1), 7).convert("RGB").save(tmp_path / "ids.png")
    assert read_panoptic_png(tmp_path / "ids.png").item() == 460551


def test_broken_png_is_named(folder):
    path = folder.pngs / "a.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"a\.png"):
        read_panoptic_png(path)


def test_segments_are_located(folder):
    ids = folder.ids["a.png"]
    index = locate_segments(ids, folder.segments)
    assert index.shape == ids.shape
    for position, segment in enumerate(folder.segments):
        np.testing.assert_array_equal(index == position, ids == segment["id"])
    np.testing.assert_array_equal(index == len(folder.segments), ids == 0)


def test_without_segments_nothing_is_located():
    np.testing.assert_array_equal(locate_segments(np.ones((2, 3), np.int32), []), np.zeros((2, 3)))


def test_semantic_map(folder):
    ids, contiguous = folder.ids["a.png"], contiguous_ids(folder.data["categories"])
    semantic = to_semantic(locate_segments(ids, folder.segments), folder.segments, contiguous)
    assert semantic.dtype == np.uint8
    for identity, label in {9: 3, 300: 0, 70000: 1, 2: 1, 16_000_000: 2, 0: 255}.items():
        assert set(semantic[ids == identity]) == {label}  # the crowd, too, is its class


@pytest.mark.parametrize(
    ("num_classes", "dtype", "ignore"), [(255, np.uint8, 255), (256, np.uint16, 65535)]
)
def test_many_classes_take_16_bits(num_classes, dtype, ignore):
    segments = [{"id": 1, "category_id": num_classes - 1}]
    contiguous = {identity: identity for identity in range(num_classes)}
    index = locate_segments(np.array([[0, 1]], dtype=np.int32), segments)
    semantic = to_semantic(index, segments, contiguous)
    assert ignore_label(num_classes) == ignore
    assert semantic.dtype == dtype
    assert semantic.tolist() == [[ignore, num_classes - 1]]


def test_too_many_classes_are_refused():
    with pytest.raises(DataError, match="65536"):
        ignore_label(65536)


def test_instances_are_the_things(folder):
    ids = folder.ids["a.png"]
    instances = to_instances(locate_segments(ids, folder.segments), folder.segments, {CAR, PERSON})
    assert [instance["category_id"] for instance in instances] == [CAR, CAR, PERSON]
    assert [instance["iscrowd"] for instance in instances] == [0, 0, 1]
    for instance, identity in zip(instances, (70000, 2, 16_000_000), strict=True):
        mask = mask_util.decode(instance["segmentation"])
        np.testing.assert_array_equal(mask, ids == identity)
        assert instance["area"] == mask.sum()
    assert instances[0]["bbox"] == [4, 10, 4, 6]


def test_instance_without_pixels_is_left_out():
    segments = [{"id": 1, "category_id": CAR}, {"id": 2, "category_id": CAR}]
    index = locate_segments(np.array([[2]], dtype=np.int32), segments)
    assert len(to_instances(index, segments, {CAR})) == 1
