"""A panoptic data set drawn on the spot, so that training can be tried without a download.

Every picture has landscape as stuff (sky, wall, grass, water: procedural textures) and shapes as
things (disc, square, triangle, star, ring) that overlap, turn, cast shadows and come in sizes from
a few pixels to half of the picture. Color hints at the class of a shape, only its outline decides.
Light, tint, texture and noise vary. Nothing is downloaded, and a seed gives the same pictures.

    python -m segcore.data.quickstart --root datasets/quickstart

writes ``{train,val}/images/*.jpg``, ``{train,val}/panoptic/*.png`` and
``{train,val}/panoptic.json`` in COCO panoptic format (segcore.data.panoptic_format).
"""

import argparse
import colorsys
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from panopticapi.utils import id2rgb
from scipy.ndimage import gaussian_filter, gaussian_filter1d, shift
from tqdm import tqdm

from segcore.data.images import encode_image
from segcore.data.panoptic_format import MAX_SEGMENT_ID
from segcore.errors import DataError
from segcore.files import atomic_folder, write_bytes, write_json
from segcore.program import run_program

FORMAT_VERSION = 2  # to be changed with the pictures, so that old ones are drawn anew
PARAMETERS_FILE = "quickstart.json"
JPEG_QUALITY = 92

# Category id (position + 1), name, hue of most of its things, color in segmentation pictures.
THINGS = (
    ("disc", 0.00, (220, 20, 60)),
    ("square", 0.60, (0, 90, 220)),
    ("triangle", 0.14, (250, 170, 30)),
    ("star", 0.83, (200, 60, 200)),
    ("ring", 0.45, (0, 200, 170)),
)
STUFF = (
    ("sky", (120, 180, 255)),
    ("wall", (150, 90, 70)),
    ("grass", (110, 180, 60)),
    ("water", (30, 80, 130)),
)
CATEGORIES = [
    {"id": number, "name": name, "isthing": is_thing, "color": list(color)}
    for number, (name, is_thing, color) in enumerate(
        [(name, 1, color) for name, _, color in THINGS] + [(name, 0, rgb) for name, rgb in STUFF],
        start=1,
    )
]
CATEGORY_ID = {category["name"]: category["id"] for category in CATEGORIES}

THINGS_PER_PICTURE = (2, 7)
SMALLEST_RADIUS = 5.0  # pixels
LARGEST_RADIUS = 0.27  # of the shorter side
ANY_HUE = 0.1  # share of things whose color says nothing about their class
SMALLEST_SEGMENT = 16  # pixels; what is left of a thing below that is unlabeled


def generate(
    root: str | Path,
    *,
    seed: int = 0,
    num_train: int = 300,
    num_val: int = 50,
    size: tuple[int, int] = (128, 160),
) -> Path:
    """Draw the data set into the folder ``root``, unless it is there with the same parameters.

    Args:
        root: a folder that does not exist, or one that this function made.
        size: height and width of the pictures in pixels.

    Returns:
        ``root``, which appears when it is complete.

    Raises:
        DataError: ``root`` has other files in it.
    """
    counts = {"train": num_train, "val": num_val}

    def draw_splits(folder: Path) -> None:
        for number, (split, count) in enumerate(counts.items()):
            _write_split(folder / split, [seed, number], count, size)

    parameters = {"version": FORMAT_VERSION, "seed": seed, "size": list(size), **counts}
    return draw_once(root, parameters, draw_splits)


def draw_once(root: str | Path, parameters: dict, draw_data: Callable[[Path], None]) -> Path:
    """Make the folder ``root`` by ``draw_data``, unless it is there with the same parameters.

    Args:
        parameters: what the data depend on, as JSON has it; kept in the folder.
        draw_data: fills an empty folder, which becomes ``root`` when it is complete.

    Raises:
        DataError: ``root`` has other files in it.
    """
    root = Path(root)
    if root.exists():
        if _parameters_of(root) == parameters:
            return root
        if _parameters_of(root) is None and any(root.iterdir()):
            raise DataError(f"{root} has files of another origin in it: name another folder")
        shutil.rmtree(root)
    with atomic_folder(root) as new:
        draw_data(new)
        write_json(parameters, new / PARAMETERS_FILE)
    return root


def _parameters_of(root: Path) -> dict | None:
    try:
        return json.loads((root / PARAMETERS_FILE).read_text())
    except (OSError, ValueError):
        return None


def _write_split(folder: Path, seed: list[int], count: int, size: tuple[int, int]) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "panoptic").mkdir()
    images, annotations = [], []
    for number in tqdm(range(count), f"Drawing {folder.name}", unit="picture", disable=None):
        picture, ids, segments = draw(np.random.default_rng([*seed, number]), size)
        photo_name, png_name = f"{number:05d}.jpg", f"{number:05d}.png"
        photo = encode_image(picture, "JPEG", quality=JPEG_QUALITY)
        write_bytes(photo, folder / "images" / photo_name)
        write_bytes(encode_image(id2rgb(ids), "PNG"), folder / "panoptic" / png_name)
        images.append({"id": number, "file_name": photo_name, "height": size[0], "width": size[1]})
        annotations.append({"image_id": number, "file_name": png_name, "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    write_json(content, folder / "panoptic.json")


def draw(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    things: tuple[int, int] = THINGS_PER_PICTURE,
    largest: float = LARGEST_RADIUS,
) -> tuple[np.ndarray, np.ndarray, list]:
    """Draw a picture.

    Args:
        size: (H, W).
        things: least and largest number of them.
        largest: their radius, as a share of the shorter side.

    Returns:
        (H, W, 3) uint8 RGB, (H, W) int32 segment ids, its ``segments_info``.
    """
    picture, layers = _draw_landscape(rng, size)
    light = rng.uniform(0, 2 * np.pi)
    for _ in range(rng.integers(*things, endpoint=True)):
        layers.append(_draw_thing(rng, picture, light, largest * min(size)))

    picture *= rng.uniform(0.75, 1.15) * rng.uniform(0.92, 1.08, size=3)  # exposure and tint
    picture += rng.normal(0, rng.uniform(0.005, 0.03), size=picture.shape)
    picture = (255 * np.clip(picture, 0, 1)).astype(np.uint8)

    ids = np.zeros(size, dtype=np.int32)
    names = {}
    segment_ids = rng.choice(MAX_SEGMENT_ID, size=len(layers), replace=False) + 1
    for segment_id, (name, mask) in zip(segment_ids.tolist(), layers, strict=True):
        ids[mask] = segment_id
        names[segment_id] = name
    segments = []
    for segment_id, name in names.items():
        visible = ids == segment_id
        area = int(np.count_nonzero(visible))
        if area < SMALLEST_SEGMENT:
            ids[visible] = 0
            continue
        rows, columns = (np.flatnonzero(visible.any(axis=axis)) for axis in (1, 0))
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
        segments.append(
            {
                "id": segment_id,
                "category_id": CATEGORY_ID[name],
                "area": area,
                "bbox": box,
                "iscrowd": 0,
            }
        )
    return picture, ids, segments


# Stuff


def _draw_landscape(rng: np.random.Generator, size: tuple[int, int]):
    """Picture (H, W, 3) in [0, 1] and the layers (name, (H, W) bool mask) of its stuff."""
    height, width = size
    y, x = np.mgrid[:height, :width] / height
    horizon = rng.uniform(0.3, 0.65) + rng.uniform(0, 0.05) * _smooth(rng, width, width / 10)
    ground = y > horizon
    layers = [("sky", ~ground)]
    if rng.random() < 0.5:
        left = rng.uniform(-0.3, 0.8) * width / height
        right = left + rng.uniform(0.3, 0.9)
        top = rng.uniform(0.05, 0.8) * horizon.min()
        layers.append(("wall", (x > left) & (x < right) & (y > top) & ~ground))
    near, far = ("grass", "water") if rng.random() < 0.5 else ("water", "grass")
    layers.append((far, ground))
    if rng.random() < 0.65:
        shore = rng.uniform(0, 1) + rng.uniform(-0.6, 0.6) * (x - 0.5)
        shore = shore + 0.05 * _smooth(rng, width, width / 12)
        layers.append((near, ground & (y > horizon + shore * (1 - horizon))))

    picture = np.zeros((height, width, 3))
    for name, mask in layers:
        picture[mask] = TEXTURES[name](rng, y, x)[mask]
    return picture, layers


def _smooth(rng: np.random.Generator, shape: int | tuple[int, int], sigma) -> np.ndarray:
    """Noise of zero mean and unit variance, correlated over ``sigma`` pixels (an axis or all)."""
    noise = rng.normal(size=shape)
    if noise.ndim == 1:
        noise = gaussian_filter1d(noise, sigma, mode="wrap")
    else:
        noise = gaussian_filter(noise, sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def _blend(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(H, W, 3) mixture of two colors or pictures, ``share`` (H, W) of the second."""
    return first + (second - first) * share[..., None]


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _sky(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    zenith = _color(rng.normal(0.58, 0.03), rng.uniform(0.35, 0.75), rng.uniform(0.7, 1))
    haze = _color(rng.choice([0.08, 0.55]), rng.uniform(0.05, 0.35), 1.0)
    clouds = np.clip(_smooth(rng, y.shape, (4, 12)) - rng.uniform(0, 1.5), 0, 1)
    return _blend(_blend(zenith, haze, np.clip(1.5 * y, 0, 1)), np.ones(3), 0.8 * clouds)


def _wall(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    brick_height = rng.uniform(0.05, 0.1)
    brick_width = brick_height * rng.uniform(1.8, 2.6)
    joint = 0.012
    row = np.floor(y / brick_height)
    across = x / brick_width + 0.5 * (row % 2)
    column = np.floor(across)
    shades = rng.normal(0, 0.05, size=(64, 64))[row.astype(int) % 64, column.astype(int) % 64]
    brick = _color(rng.normal(0.04, 0.02), rng.uniform(0.35, 0.65), rng.uniform(0.5, 0.75))
    mortar = _color(0.1, 0.1, rng.uniform(0.55, 0.85))
    is_joint = (y % brick_height < joint) | ((across - column) * brick_width < joint)
    grain = 0.03 * _smooth(rng, y.shape, 0.7)
    return np.where(is_joint[..., None], mortar, brick + shades[..., None]) + grain[..., None]


def _grass(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    hue = rng.normal(0.27, 0.03)
    dark, bright = _color(hue, 0.75, rng.uniform(0.25, 0.4)), _color(hue - 0.03, 0.6, 0.75)
    blades = 0.5 + 0.22 * _smooth(rng, y.shape, (1.6, 0.5)) + 0.12 * _smooth(rng, y.shape, 10)
    return _blend(dark, bright, np.clip(blades, 0, 1))


def _water(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    hue = rng.normal(0.54, 0.03)
    deep, crest = _color(hue, 0.8, rng.uniform(0.35, 0.6)), _color(hue, 0.25, 0.95)
    bend = 0.015 * _smooth(rng, y.shape, (2, 8))
    ripples = np.sin(2 * np.pi * (y + bend) / (0.025 + 0.05 * y)) * 0.5 + 0.5
    return _blend(deep, crest, 0.45 * ripples**3)


TEXTURES: dict[str, Callable] = {"sky": _sky, "wall": _wall, "grass": _grass, "water": _water}


# Things: an outline is a function of the position in units of the radius, negative inside; near
# the outline it is about the distance from it.


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.95


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) * np.sqrt(0.75) + y / 2, -y) - 0.55


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points at radius 1.1; folded into half of one point, its outline is one line."""
    radius = np.hypot(x, y)
    angle = np.abs((np.arctan2(y, x) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    tip = np.array([1.1, 0.0])
    notch = 0.48 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    along = (notch - tip) / np.linalg.norm(notch - tip)
    return (radius * np.cos(angle) - tip[0]) * along[1] - radius * np.sin(angle) * along[0]


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


OUTLINES: dict[str, Callable] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
}


def _draw_thing(
    rng: np.random.Generator, picture: np.ndarray, light: float, largest: float
) -> tuple[str, np.ndarray]:
    """Draw a thing over ``picture`` in place; its name and (H, W) bool mask.

    Args:
        largest: radius in pixels.
    """
    height, width = picture.shape[:2]
    name, hue, _ = THINGS[rng.integers(len(THINGS))]
    # Logarithmic, so that there are more small things than large ones.
    radius = np.exp(rng.uniform(np.log(SMALLEST_RADIUS), np.log(largest)))
    center_y, center_x = rng.uniform(0.1, 0.95) * height, rng.uniform(0.02, 0.98) * width
    y, x = np.mgrid[:height, :width]
    y, x = (y - center_y) / radius, (x - center_x) / radius
    turn = rng.uniform(0, 2 * np.pi)
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    distance = OUTLINES[name](along, across) * radius  # pixels
    mask = distance < 0
    coverage = np.clip(0.5 - distance, 0, 1)

    reach = 0.25 * radius
    offset = (reach * np.sin(light), reach * np.cos(light))
    shadow = gaussian_filter(shift(coverage, offset, order=0), 0.12 * radius)
    picture *= 1 - 0.45 * shadow[..., None]

    hue = rng.random() if rng.random() < ANY_HUE else rng.normal(hue, 0.04)
    color = _color(hue, rng.uniform(0.55, 0.95), rng.uniform(0.6, 0.95))
    shading = 0.95 - 0.25 * (np.cos(light) * x + np.sin(light) * y)
    shading -= 0.3 * np.exp(-np.abs(distance) / 1.2)  # a darker rim
    surface = color * (shading * _pattern(rng, along, across))[..., None]
    picture[:] = _blend(picture, surface, coverage)
    return name, mask


def _pattern(rng: np.random.Generator, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Brightness (H, W) of a surface: plain, striped, dotted or stained."""
    kind = rng.integers(4)
    period = rng.uniform(0.3, 0.7)
    if kind == 0:
        return np.ones_like(along)
    if kind == 1:
        return np.where(along % period < period / 2, 1, 0.72)
    if kind == 2:
        dots = np.hypot(along % period - period / 2, across % period - period / 2)
        return np.where(dots < 0.28 * period, 0.65, 1)
    return 1 + 0.12 * _smooth(rng, along.shape, 2)


def draw_data_set(args: argparse.Namespace) -> None:
    root = generate(args.root, seed=args.seed, num_train=args.num_train, num_val=args.num_val)
    print(f"Quickstart data set: {root}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the quickstart data set.")
    parser.add_argument("--root", required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-train", type=int, default=300)
    parser.add_argument("--num-val", type=int, default=50)
    return run_program(draw_data_set, parser)


if __name__ == "__main__":
    sys.exit(main())
