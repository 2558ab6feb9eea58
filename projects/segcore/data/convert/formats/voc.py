"""Pascal VOC: SegmentationClass and SegmentationObject, as palette or color PNGs.

CVAT exports it as "Pascal VOC" and "Segmentation mask", with classes and colors in labelmap.txt.
"""

from functools import partial
from pathlib import Path

import numpy as np
from panopticapi.utils import rgb2id

from segcore.data.category_rules import MAX_CATEGORIES, name_fault
from segcore.data.convert.painting import Label, LabelMap
from segcore.data.convert.source import (
    AnnotatedPhoto,
    Request,
    Source,
    SourceClass,
    photos_by_stem,
    split_name,
)
from segcore.data.images import read_ids
from segcore.data.listing import list_files
from segcore.data.report import Problem
from segcore.data.text_file import read_text
from segcore.errors import DataError
from segcore.text import printable, short_repr

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
BACKGROUND = ("background", "_background_")
VOID = 255  # as an index; as a color, that of the standard palette
VOID_COLOR = (224, 224, 192)


def read_voc(request: Request) -> Source:
    """List the photos that have a PNG in SegmentationClass. The background is unlabeled.

    Raises:
        DataError: there are no such PNGs, or labelmap.txt is faulty.
    """
    root = request.folder
    maps = list_files(root / "SegmentationClass", "**/*.png")
    images = request.images_or(root / "JPEGImages")
    label_map = root / "labelmap.txt"
    colors = read_label_map(label_map) if label_map.is_file() else _standard_colors()
    listed = {name: color for name, color in colors.items() if name not in BACKGROUND}
    positions = {name: index for index, name in enumerate(colors)}
    classes = [SourceClass(positions[name], name, color=color) for name, color in listed.items()]
    splits, photo_names = _splits(root), photos_by_stem(images)
    photos, problems = [], []
    for path in maps:
        stem = str(path.relative_to(root / "SegmentationClass").with_suffix(""))
        if stem not in photo_names:
            fault = f"no photo in {printable(images)} has its name"
            problems.append(Problem("missing photo", str(path), fault))
            continue
        instances = root / "SegmentationObject" / path.relative_to(root / "SegmentationClass")
        files = (path, instances) if instances.is_file() else (path,)
        split = request.sources[0][0] or splits.get(stem, "")
        read = partial(_read, files, classes)
        photos.append(AnnotatedPhoto(photo_names[stem], files, read, split))
    return Source(images, classes, photos, problems)


def read_label_map(path: Path) -> dict[str, tuple[int, int, int]]:
    """Read labelmap.txt: name -> color, in the order of the indices.

    Its lines are ``name:red,green,blue:parts:actions``.
    """
    colors = {}
    for number, line in enumerate(read_text(path, "labelmap.txt").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        channels = rest.split(":")[0].split(",")
        is_color = len(channels) == 3 and all(c.isdecimal() and int(c[:4]) < 256 for c in channels)
        if name_fault(name) or not is_color or name in colors or len(colors) == MAX_CATEGORIES:
            raise DataError(
                f"{printable(path)}: line {number}: expected name:red,green,blue:: with another "
                f"name, got {short_repr(line)}"
            )
        colors[name] = tuple(map(int, channels))
    return colors


def standard_palette(count: int) -> np.ndarray:
    """Return the colors of VOC's palette: (count, 3) uint8.

    Bits 0, 3, 6, ... of the index are the highest bits of red, bits 1, 4, ... those of green and
    2, 5, ... those of blue (VOC development kit, ``VOClabelcolormap``).
    """
    index = np.arange(count)
    bits = np.arange(8)
    channels = [((index[:, None] >> (3 * bits + c) & 1) << (7 - bits)).sum(1) for c in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def _standard_colors() -> dict[str, tuple[int, int, int]]:
    names = ("background", *CLASSES)
    palette = standard_palette(len(names)).tolist()
    return {name: tuple(color) for name, color in zip(names, palette, strict=True)}


def _splits(root: Path) -> dict[str, str]:
    """Return stem -> split, of the lists in ImageSets/Segmentation."""
    splits = {}
    for name in ("train", "val", "test"):
        path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
        if path.is_file():
            stems = read_text(path, "a list of photos").split()
            splits.update(dict.fromkeys(stems, split_name(name)))
    return splits


def _read(files: tuple[Path, ...], classes: list[SourceClass], size: tuple[int, int]) -> LabelMap:
    codes, is_color = _codes(files[0])
    ids = {_code(c.color) if is_color else c.id: c.id for c in classes}
    instances, void = np.zeros_like(codes), VOID
    if len(files) > 1:
        instances, is_color = _codes(files[1])
        void = _code(VOID_COLOR) if is_color else VOID
    if instances.shape != codes.shape:
        raise DataError(f"{printable(files[1])}: has another size than {printable(files[0])}")
    pairs, values = np.unique(
        codes.astype(np.int64) << 24 | instances.astype(np.int64), return_inverse=True
    )
    labels = {}
    for value, pair in enumerate(pairs.tolist()):
        code, instance = pair >> 24, pair & 0xFFFFFF
        if code in ids:
            labels[value] = Label(ids[code], is_instance=instance not in (0, void))
    return LabelMap(values.reshape(codes.shape), labels)


def _codes(path: Path) -> tuple[np.ndarray, bool]:
    """Return a number for each pixel, (H, W), and whether it is a color or an index."""
    pixels, _ = read_ids(path)
    if pixels.ndim == 2:
        return pixels.astype(np.int32), False
    if pixels.shape[2] < 3 or pixels.dtype != np.uint8:
        raise DataError(f"{printable(path)}: expected a palette, grey values or RGB")
    return rgb2id(pixels[:, :, :3]).astype(np.int32), True


def _code(color: tuple[int, int, int]) -> int:
    return color[0] + 256 * color[1] + 65536 * color[2]
