"""Hostile JSON ends in an error that names the file, not in another exception or a long wait."""

import gzip
import json
import os

import pytest

from segcore.data.json_file import MAX_DEPTH, read_json
from segcore.data.panoptic_format import read_panoptic_json
from segcore.errors import DataError

REFUSED = {
    "empty": (b"", "not a JSON file"),
    "no JSON": (b"nc: 80", "not a JSON file"),
    "Latin-1": ('["é"]'.encode("latin-1"), "no UTF-8 text"),
    "gzip": (gzip.compress(b"[]"), "compressed with gzip"),
    "deep lists": (b"[" * 100_000, "nested more than"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than"),
    "a little too deep": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested more than"),
    "long integer": (b"[1" + b"0" * 5000 + b"]", "integer of thousands of digits"),
    "large float": (b"[1e999]", "1e999"),
    "not a number": (b'{"a": NaN}', "NaN"),
    "infinity": (b"[-Infinity]", "-Infinity"),
    "key twice": (b'{"a\\u001b": 1, "a\\u001b": 2}', r"the key 'a\x1b' 2 times"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_json_is_refused(tmp_path, name):
    content, message = REFUSED[name]
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert len(text) < 300


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "some.json"
    path.write_bytes('{"é": [1, 2.5]}'.encode(encoding))
    assert read_json(path) == {"é": [1, 2.5]}


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, kind in (
        (tmp_path / "fifo", "a pipe"),
        (tmp_path, "a folder"),
        ("/dev/zero", "a pipe"),
    ):
        with pytest.raises(DataError, match=rf"expected a JSON file, got {kind}"):
            read_json(path)


def test_a_relative_path_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read_json("absent.json")
    assert f"(relative to the working directory {tmp_path})" in str(caught.value)


def test_a_large_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("segcore.data.json_file.MAX_BYTES", 10)
    path = tmp_path / "some.json"
    path.write_text("[1, 2, 3, 4]")
    with pytest.raises(DataError, match="split the data set"):
        read_json(path)


OTHER_FORMATS = {
    "instances": (
        {
            "images": [{"id": 1}],
            "categories": [{"id": 1, "name": "car"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        },
        r"COCO instance annotation.*docs/convert\.md",
    ),
    "panoptic predictions": (
        {"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]},
        "predictions",
    ),
    "detections": ([{"image_id": 1, "category_id": 1, "score": 0.5}], "COCO results"),
    "LabelMe": ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "LabelMe"),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_recognized(tmp_path, name):
    content, message = OTHER_FORMATS[name]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_panoptic_json(path)
