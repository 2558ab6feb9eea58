"""Memory and CPU time of demo.py on photos of 1 to 64 megapixels.

    python -m benchmarks.demo_memory [--megapixels 1 12 24 64] [--queries 25 100] [--segments 20]
        [--tile 1024]

The quickstart's Mask2Former runs with initial weights; instead of its predictions, which would be
empty, discs of the same shape and type are taken, so that panoptic map, semantic map and instances
have segments. Each photo is read, predicted and written (panoptic PNG, JSON, overlay) in a process
of its own; memory is the additional peak after the model is built.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common import peak_mebibytes
from detectron2.modeling import build_model
from PIL import Image
from tabulate import tabulate

from segcore.config import get_cfg
from segcore.data.images import read_image
from segcore.data.mappers.augmentation import resize_for_test
from segcore.demo.results import ResultWriter
from segcore.inference.tiled_prediction import predict_tiles

CONFIG = Path(__file__).resolve().parents[1] / "configs/quickstart/mask2former_R18.yaml"
OVERLAP = 128  # pixels
PARTS = ("read", "predict", "write")


def make_photo(megapixels: float, folder: Path) -> Path:
    """Write a JPEG of coarse noise, 4 : 3; square from 64 megapixels."""
    ratio = 1.0 if megapixels >= 64 else 4 / 3
    height = round(math.sqrt(megapixels * 1e6 / ratio))
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    path = folder / f"{megapixels:g}.jpg"
    size = round(height * ratio), height
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def make_run(
    path: Path, queries: int, segments: int, tile: int | None, seconds_file: Path
) -> Callable[[], None]:
    """Build the model; return a function that runs the photo through it once."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(
        [
            *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""),
            *("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", queries),
            *("MODEL.MASK_FORMER.TEST.INSTANCE_ON", True),
            *("MODEL.MASK_FORMER.TEST.SEMANTIC_ON", True),
        ]
    )
    model = build_model(cfg).eval()
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    head = model.sem_seg_head
    network = head.forward

    def predict_discs(features: dict[str, Any]) -> dict[str, Any]:
        outputs = network(features)
        logits, masks = discs(queries, segments, num_classes, outputs["pred_masks"].shape[-2:])
        return {**outputs, "pred_logits": logits[None], "pred_masks": masks[None]}

    head.forward = predict_discs
    augmentation = resize_for_test(cfg)
    categories = [
        {"id": n, "name": f"class {n}", "isthing": n % 2, "color": [40 * n % 256, 90, 200]}
        for n in range(num_classes)
    ]

    def predict(photo: np.ndarray) -> dict[str, Any]:
        pixels = augmentation.get_transform(photo).apply_image(photo)
        image = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        inputs = {"image": image, "height": photo.shape[0], "width": photo.shape[1]}
        with torch.no_grad():
            return model.predict_compact([inputs])[0]

    def run() -> None:
        seconds = [time.process_time()]
        photo = read_image(path, "BGR")
        seconds.append(time.process_time())
        result = predict(photo) if tile is None else predict_tiles(photo, predict, tile, OVERLAP)
        seconds.append(time.process_time())
        with tempfile.TemporaryDirectory() as folder:
            writer = ResultWriter(folder, categories, 0.5)
            rows = writer.add(path, photo, result)
            writer.finish()
        seconds.append(time.process_time())
        np.savetxt(seconds_file, [*np.diff(seconds), len(rows)])

    return run


def discs(
    queries: int, segments: int, num_classes: int, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return class logits (Q, K+1), ``segments`` of them sure, and mask logits (Q, h, w): discs."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(queries, num_classes + 1)
    logits[:, -1] = 10.0
    sure = torch.arange(min(segments, queries))
    logits[sure, sure % num_classes] = 20.0
    columns = math.ceil(math.sqrt(queries))
    number = torch.arange(queries)
    shake = 0.2 * torch.rand(2, queries, generator=generator)
    center_y = (number // columns + 0.5 + shake[0]) / columns
    center_x = (number % columns + 0.5 + shake[1]) / columns
    y, x = (torch.arange(edge) / edge for edge in size)
    distance = (y[:, None] - center_y[:, None, None]).square()
    distance = (distance + (x - center_x[:, None, None]).square()).sqrt()
    return logits, 40 * (0.5 - distance * columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 12, 24, 64])
    parser.add_argument("--queries", type=int, nargs="+", default=[25, 100])
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--tile", type=int, help="pixels; default: the photo as a whole")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for megapixels in arguments.megapixels:
            path = make_photo(megapixels, folder)
            for queries in arguments.queries:
                seconds_file = folder / "seconds.txt"
                memory = peak_mebibytes(
                    make_run,
                    path,
                    queries,
                    arguments.segments,
                    arguments.tile,
                    seconds_file,
                    device="cpu",
                )
                *seconds, found = np.loadtxt(seconds_file)
                rows.append([f"{megapixels:g}", queries, int(found), *seconds, memory])
                print(tabulate(rows[-1:], floatfmt=".1f", tablefmt="plain"), flush=True)
    headers = [
        "megapixels",
        "queries",
        "segments",
        *(f"{part}, CPU s" for part in PARTS),
        "peak, MiB",
    ]
    print(tabulate(rows, headers, floatfmt=("", "", "", ".1f", ".1f", ".1f", ".0f")))


if __name__ == "__main__":
    main()
