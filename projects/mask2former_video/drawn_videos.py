"""Videos of moving shapes, drawn on the spot, in the format of YouTubeVIS.

Discs, squares, triangles, stars and rings move over a textured ground, turn, cross and hide each
other, and leave the picture and return. Nothing is downloaded, and a seed gives the same videos.

    python -m mask2former_video.drawn_videos --root datasets/quickstart_videos

writes ``{train,val}/frames/<video>/<frame>.jpg`` and ``{train,val}/videos.json``.
"""

import argparse
import colorsys
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from segcore.data.images import encode_image
from segcore.data.quickstart import OUTLINES, THINGS, draw_once
from segcore.files import write_bytes, write_json
from segcore.program import run_program

FORMAT_VERSION = 1  # to be changed with the pictures, so that old ones are drawn anew
JPEG_QUALITY = 92
SHAPES_PER_VIDEO = (2, 5)
RADIUS = (0.09, 0.22)  # of the shorter side
SPEED = (0.01, 0.035)  # shares of the picture's sides a frame
MAX_TURN = 0.12  # radians a frame
MARGIN = 0.15  # share of the sides by which centers leave the picture
SMALLEST_VISIBLE = 12  # pixels; what is left of a shape below that is not annotated
CATEGORIES = [
    {"id": number, "name": name, "color": list(color)}
    for number, (name, _, color) in enumerate(THINGS, start=1)
]


@dataclass(frozen=True)
class Shape:
    """A moving shape; lengths are shares of the picture's sides, times are in frames."""

    category: int
    radius: float  # pixels
    start: np.ndarray  # (x, y) of the center
    velocity: np.ndarray
    angle: float
    turn: float
    color: np.ndarray  # (3,) in [0, 1]
    stripes: float  # contrast

    def center(self, time: int) -> np.ndarray:
        """Return the center (x, y), which is reflected a margin outside of the picture."""
        way = (self.start + MARGIN + self.velocity * time) / (1 + 2 * MARGIN)
        return np.abs((way + 1) % 2 - 1) * (1 + 2 * MARGIN) - MARGIN


def draw_video(
    rng: np.random.Generator, num_frames: int, size: tuple[int, int]
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw frames (T, H, W, 3) uint8 RGB; (category, visible masks (T, H, W)) of each shape."""
    background = _background(rng, size)
    num_shapes = rng.integers(*SHAPES_PER_VIDEO, endpoint=True)
    shapes = [_random_shape(rng, size) for _ in range(num_shapes)]
    frames = np.empty((num_frames, *size, 3), dtype=np.uint8)
    masks = np.zeros((len(shapes), num_frames, *size), dtype=bool)
    for time in range(num_frames):
        picture = background.copy()
        for number, shape in enumerate(shapes):
            mask = _paint(picture, shape, time)
            masks[:number, time] &= ~mask
            masks[number, time] = mask
        picture += rng.normal(0, 0.015, size=picture.shape)
        frames[time] = 255 * np.clip(picture, 0, 1)
    return frames, [(shape.category, mask) for shape, mask in zip(shapes, masks, strict=True)]


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    noise = gaussian_filter(rng.normal(size=size), 6)
    noise = (noise - noise.min()) / np.ptp(noise)
    first, second = (
        np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.4, 0.9)))
        for _ in range(2)
    )
    return first + (second - first) * noise[..., None]


def _random_shape(rng: np.random.Generator, size: tuple[int, int]) -> Shape:
    category = int(rng.integers(len(THINGS)))
    direction = rng.uniform(0, 2 * np.pi)
    hue = (THINGS[category][1] + rng.normal(0, 0.05)) % 1
    return Shape(
        category=category,
        radius=rng.uniform(*RADIUS) * min(size),
        start=rng.uniform(0.05, 0.95, size=2),
        velocity=rng.uniform(*SPEED) * np.array([np.cos(direction), np.sin(direction)]),
        angle=rng.uniform(0, 2 * np.pi),
        turn=rng.uniform(-MAX_TURN, MAX_TURN),
        color=np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95))),
        stripes=rng.choice([0.0, 0.25]),
    )


def _paint(picture: np.ndarray, shape: Shape, time: int) -> np.ndarray:
    """Draw a shape over ``picture`` in place; return its mask (H, W)."""
    height, width = picture.shape[:2]
    center_x, center_y = shape.center(time) * (width, height)
    y, x = np.mgrid[:height, :width]
    y, x = (y - center_y) / shape.radius, (x - center_x) / shape.radius
    angle = shape.angle + shape.turn * time
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    distance = OUTLINES[THINGS[shape.category][0]](along, across) * shape.radius  # pixels
    shading = 1 - 0.3 * np.exp(-np.abs(distance) / 1.2) - shape.stripes * (along % 0.5 < 0.25)
    coverage = np.clip(0.5 - distance, 0, 1)[..., None]
    picture += (shape.color * shading[..., None] - picture) * coverage
    return distance < 0


def generate(
    root: str | Path,
    *,
    seed: int = 0,
    num_train: int = 80,
    num_val: int = 16,
    num_frames: int = 12,
    size: tuple[int, int] = (96, 128),
) -> Path:
    """Draw the data set into the folder ``root``, unless it is there with the same parameters.

    Args:
        root: a folder that does not exist, or one that this function made.
        num_frames: of each video.
        size: height and width of the frames in pixels.

    Raises:
        DataError: ``root`` has other files in it.
    """
    counts = {"train": num_train, "val": num_val}

    def draw(folder: Path) -> None:
        for number, (split, count) in enumerate(counts.items()):
            _write_split(folder / split, [seed, number], count, num_frames, size)

    parameters = {"seed": seed, "size": list(size), "num_frames": num_frames, **counts}
    return draw_once(root, {"version": FORMAT_VERSION, "videos": parameters}, draw)


def _write_split(
    folder: Path, seed: list[int], count: int, num_frames: int, size: tuple[int, int]
) -> None:
    videos, annotations = [], []
    for video in tqdm(range(count), f"Drawing {folder.name}", unit="video", disable=None):
        frames, tracks = draw_video(np.random.default_rng([*seed, video]), num_frames, size)
        names = [f"{video:04d}/{frame:05d}.jpg" for frame in range(num_frames)]
        (folder / "frames" / f"{video:04d}").mkdir(parents=True)
        for name, frame in zip(names, frames, strict=True):
            write_bytes(encode_image(frame, "JPEG", quality=JPEG_QUALITY), folder / "frames" / name)
        videos.append({"id": video, "height": size[0], "width": size[1], "file_names": names})
        for category, masks in tracks:
            record = _annotation(masks)
            if any(record["areas"]):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "video_id": video,
                        "category_id": category + 1,
                        "iscrowd": 0,
                        **record,
                    }
                )
    content = {"videos": videos, "categories": CATEGORIES, "annotations": annotations}
    write_json(content, folder / "videos.json")


def _annotation(masks: np.ndarray) -> dict[str, list]:
    """Return segmentations, boxes and areas of masks (T, H, W), None where too little is seen."""
    encoded = mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    areas, boxes = mask_util.area(encoded).tolist(), mask_util.toBbox(encoded).tolist()
    seen = [area >= SMALLEST_VISIBLE for area in areas]
    segmentations = [{**mask, "counts": mask["counts"].decode("ascii")} for mask in encoded]
    return {
        key: [value if is_seen else None for value, is_seen in zip(values, seen, strict=True)]
        for key, values in (("segmentations", segmentations), ("bboxes", boxes), ("areas", areas))
    }


def draw_data_set(args: argparse.Namespace) -> None:
    options = {key: getattr(args, key) for key in ("seed", "num_train", "num_val", "num_frames")}
    print(f"Videos of moving shapes: {generate(args.root, **options)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw videos of moving shapes.")
    parser.add_argument("--root", required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-train", type=int, default=80)
    parser.add_argument("--num-val", type=int, default=16)
    parser.add_argument("--num-frames", type=int, default=12)
    return run_program(draw_data_set, parser)


if __name__ == "__main__":
    sys.exit(main())
