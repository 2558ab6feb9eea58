"""Photos, files and results of the tests of conversion."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from segcore.data.check import check_panoptic_dataset
from segcore.data.panoptic_format import read_panoptic_json, read_panoptic_png

# (height, width), odd and different, by name: a photo in a folder, with names in other scripts.
PHOTOS = {"größe/Фото 1.jpg": (41, 57), "写真.png": (32, 40)}


class Converted:
    """A data set that a conversion wrote, as read back."""

    def __init__(self, output: Path, images: Path, code: int, printed: str):
        self.output, self.images, self.code, self.printed = output, images, code, printed

    def json(self, split: str = "train") -> dict:
        return read_panoptic_json(self.output / split / "panoptic.json")

    def annotation(self, name: str, split: str = "train") -> tuple[np.ndarray, list[dict]]:
        """Ids (H, W) and segments of a photo."""
        data = self.json(split)
        (image_id,) = (photo["id"] for photo in data["images"] if photo["file_name"] == name)
        (record,) = (a for a in data["annotations"] if a["image_id"] == image_id)
        ids = read_panoptic_png(self.output / split / "panoptic" / record["file_name"])
        return ids, record["segments_info"]

    def masks(self, name: str, split: str = "train") -> list[tuple[str, np.ndarray, int]]:
        """Class, mask (H, W) and iscrowd of each segment of a photo."""
        ids, segments = self.annotation(name, split)
        classes = {category["id"]: category["name"] for category in self.json(split)["categories"]}
        return [(classes[s["category_id"]], ids == s["id"], s["iscrowd"]) for s in segments]

    def semantic(self, name: str, split: str = "train") -> np.ndarray:
        """Category ids (H, W), -1 where unlabeled."""
        ids, segments = self.annotation(name, split)
        table = np.full(ids.max() + 1, -1)
        for segment in segments:
            table[segment["id"]] = segment["category_id"]
        return table[ids]

    def assert_sound(self) -> None:
        for path in self.output.glob("*/panoptic.json"):
            split = path.parent
            report = check_panoptic_dataset(
                self.images, path, split / "panoptic", evaluation=True, progress=False
            )
            assert report.problems == []


def write_json(content: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def save(pixels: np.ndarray, path: Path, palette: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    image.save(path)
    return path


def ring(size: tuple[int, int]) -> np.ndarray:
    """A mask with a hole."""
    y, x = np.mgrid[: size[0], : size[1]]
    radius = np.hypot(y - size[0] / 2, x - size[1] / 2)
    return (radius < 14) & (radius > 7)
