"""Time of ``segcore convert`` on drawn photos in each format, by one core and by two.

    python -m benchmarks.conversion [--photos 1000] [--cores 1 2] [--formats coco yolo]

The photos are those of the quickstart at 480 x 640 pixels with 7 to 8 segments on average, 50 of
them different; their annotations are written as the tools do: outlines point by point, LabelMe's
JSONs with the photo inside. Each row is the whole command in a new process, start included.
"""

import argparse
import base64
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tabulate import tabulate

from segcore.data.convert.formats.voc import standard_palette
from segcore.data.datasets.categories import load_categories
from segcore.data.quickstart import CATEGORIES, draw

SIZE = (480, 640)
NUM_DIFFERENT = 50
NAMES = [category["name"] for category in CATEGORIES]
THINGS = [category["name"] for category in CATEGORIES if category["isthing"]]
CITYSCAPES_IDS = np.array([0, 24, 25, 26, 27, 28, 23, 11, 22, 21])  # of the categories from 1


class Picture(NamedTuple):
    """A photo and its annotation.

    Attributes:
        jpeg: the photo.
        classes: (H, W) uint8, position in ``CATEGORIES`` from 1, 0 where unlabeled.
        instances: (H, W) uint8, numbers of the segments from 1.
        outlines: (class, points (n, 2) as x and y in pixels) of each part of a segment.
    """

    jpeg: bytes
    classes: np.ndarray
    instances: np.ndarray
    outlines: list[tuple[int, np.ndarray]]


def make_picture(number: int) -> Picture:
    pixels, ids, segments = draw(np.random.default_rng(number), SIZE)
    classes, instances = np.zeros((2, *SIZE), np.uint8)
    outlines = []
    for index, segment in enumerate(segments, start=1):
        mask = ids == segment["id"]
        classes[mask], instances[mask] = segment["category_id"], index
        contours, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        outlines += [
            (segment["category_id"], contour[:, 0] + 0.5)
            for contour in contours
            if len(contour) > 2
        ]
    return Picture(encode(pixels, "JPEG"), classes, instances, outlines)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(files: dict[str, bytes | str | dict], root: Path) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


# For each format: the files of a photo, and those of the whole set.


def of_labelme(stem: str, picture: Picture) -> dict:
    shapes = [
        {"label": NAMES[class_ - 1], "shape_type": "polygon", "points": points.tolist()}
        for class_, points in picture.outlines
    ]
    data = {"imagePath": f"{stem}.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    data |= {"shapes": shapes, "imageData": base64.b64encode(picture.jpeg).decode()}
    return {f"{stem}.jpg": picture.jpeg, f"{stem}.json": data}


def of_yolo(stem: str, picture: Picture) -> dict:
    lines = [
        f"{class_ - 1} " + " ".join(f"{value:.6f}" for value in (points / SIZE[::-1]).ravel())
        for class_, points in picture.outlines
    ]
    return {
        f"images/train/{stem}.jpg": picture.jpeg,
        f"labels/train/{stem}.txt": "\n".join(lines) + "\n",
    }


def of_voc(stem: str, picture: Picture) -> dict:
    files = {f"JPEGImages/{stem}.jpg": picture.jpeg}
    for folder, values in (("Class", picture.classes), ("Object", picture.instances)):
        image, buffer = Image.fromarray(values), io.BytesIO()
        image.putpalette(standard_palette(256).ravel().tolist())
        image.save(buffer, "PNG")
        files[f"Segmentation{folder}/{stem}.png"] = buffer.getvalue()
    return files


def of_semantic(stem: str, picture: Picture) -> dict:
    return {f"images/{stem}.jpg": picture.jpeg, f"maps/{stem}.png": encode(picture.classes)}


def of_cityscapes(stem: str, picture: Picture) -> dict:
    ids = CITYSCAPES_IDS[picture.classes]
    is_thing = np.isin(ids, CITYSCAPES_IDS[1 : len(THINGS) + 1])
    ids = np.where(is_thing, 1000 * ids + picture.instances, ids).astype(np.uint16)
    return {
        f"leftImg8bit/train/a/{stem}_leftImg8bit.png": picture.jpeg,  # read by content
        f"gtFine/train/a/{stem}_gtFine_instanceIds.png": encode(ids),
    }


def of_mapillary(stem: str, picture: Picture) -> dict:
    ids = 256 * picture.classes.astype(np.uint16) + picture.instances
    return {
        f"training/images/{stem}.jpg": picture.jpeg,
        f"training/instances/{stem}.png": encode(ids),
    }


def of_ade20k(stem: str, picture: Picture) -> dict:
    rows = load_categories("ade20k_instance_to_150")[: len(THINGS)]
    semantic = np.zeros(len(NAMES) + 1, np.uint8)
    semantic[1 : len(rows) + 1] = [row["class_id_1based"] for row in rows]
    semantic[len(rows) + 1 :] = (1, 2, 3, 4)  # wall, building, sky, floor: stuff
    is_thing = (picture.classes > 0) & (picture.classes <= len(rows))
    label = np.array([0, *(row["instance_id"] for row in rows)] + [0] * 4, np.uint8)
    channels = (
        label[picture.classes],
        picture.instances * is_thing,
        np.zeros_like(picture.classes),
    )
    return {
        f"images/training/{stem}.jpg": picture.jpeg,
        f"annotations/training/{stem}.png": encode(semantic[picture.classes]),
        f"annotations_instance/training/{stem}.png": encode(np.stack(channels, axis=2)),
    }


def coco_json(stems: list[str], pictures: list[Picture]) -> dict:
    images, annotations = [], []
    for number, stem in enumerate(stems, start=1):
        size = {"height": SIZE[0], "width": SIZE[1]}
        images.append({"id": number, "file_name": f"{stem}.jpg", **size})
        for class_, points in pictures[(number - 1) % len(pictures)].outlines:
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": class_}
            outline = [points.ravel().tolist()]
            annotations.append({**annotation, "iscrowd": 0, "segmentation": outline})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def mapillary_config() -> dict:
    labels = [
        {"readable": name, "instances": name in THINGS, "evaluate": name != "none"}
        for name in ["none", *NAMES]
    ]
    return {"labels": labels}


WRITERS = {
    "coco": lambda stem, picture: {f"{stem}.jpg": picture.jpeg},
    "voc": of_voc,
    "yolo": of_yolo,
    "labelme": of_labelme,
    "semantic": of_semantic,
    "cityscapes": of_cityscapes,
    "mapillary": of_mapillary,
    "ade20k": of_ade20k,
}


def export(form: str, root: Path, pictures: list[Picture], count: int) -> list[str]:
    """Write photos and annotations; return the arguments of the command."""
    stems = [f"photo_{number:05d}" for number in range(count)]
    for number, stem in enumerate(stems):
        write(WRITERS[form](stem, pictures[number % len(pictures)]), root)
    match form:
        case "coco":
            write({"instances.json": coco_json(stems, pictures)}, root)
            return [f"{root}/instances.json"]
        case "yolo":
            write({"data.yaml": json.dumps({"names": NAMES})}, root)
        case "semantic":
            write({"classes.txt": "\n".join(["", *NAMES])}, root)
            arguments = [f"{root}/maps", "--images", f"{root}/images"]
            return [*arguments, "--classes", f"{root}/classes.txt", "--stuff", *NAMES]
        case "mapillary":
            write({"config.json": mapillary_config()}, root)
        case "voc":
            write({"labelmap.txt": "".join(voc_colors())}, root)
    return [str(root)]


def voc_colors() -> Iterator[str]:
    colors = standard_palette(1 + len(NAMES)).tolist()
    for name, color in zip(["background", *NAMES], colors, strict=True):
        yield f"{name}:{','.join(map(str, color))}::\n"


def seconds(arguments: list[str], num_cores: int) -> tuple[float, float]:
    """Return wall time and CPU time of the command on the first cores of this process."""
    cores = sorted(os.sched_getaffinity(0))[:num_cores]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "segcore.data.convert", *arguments],
        check=True,
        capture_output=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), default=list(WRITERS))
    args = parser.parse_args()
    pictures = [make_picture(number) for number in range(min(NUM_DIFFERENT, args.photos))]
    rows = []
    for form in args.formats:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "source")
            command = [*export(form, root, pictures, args.photos), "--from", form]
            times = []
            for cores in args.cores:
                times += seconds([*command, "--output", f"{folder}/{cores}"], cores)
            rows.append([form, *times])
    headers = [f"{kind} s, {cores} cores" for cores in args.cores for kind in ("wall", "CPU")]
    print(tabulate(rows, ["format", *headers], floatfmt=".1f"))


if __name__ == "__main__":
    main()
