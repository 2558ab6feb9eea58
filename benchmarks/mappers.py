"""CPU time per photo of the training mappers at the official sizes, on drawn photos.

    python -m benchmarks.mappers [--repeat 20]

Each photo is shown in a Voronoi diagram of 20 segments, as JPEG + PNG on disk, so that reading
counts. One process, one thread: a data loader has one such process a worker.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import BoxMode
from PIL import Image
from scipy.spatial import KDTree
from tabulate import tabulate

import segcore.data.datasets  # noqa: F401 registers them
from segcore.config import get_cfg
from segcore.data.mappers import build_train_mapper

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NUM_SEGMENTS = 20
# configuration -> photo (height, width)
CASES = {
    "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml": (480, 640),
    "coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml": (480, 640),
    "ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml": (512, 683),
    "ade20k/panoptic-segmentation/maskformer2_R50_bs16_160k.yaml": (512, 683),
    "cityscapes/semantic-segmentation/maskformer2_R50_bs16_90k.yaml": (1024, 2048),
    "cityscapes/panoptic-segmentation/maskformer2_R50_bs16_90k.yaml": (1024, 2048),
    "cityscapes/instance-segmentation/maskformer2_R50_bs16_90k.yaml": (1024, 2048),
    "mapillary-vistas/panoptic-segmentation/maskformer2_R50_bs16_300k.yaml": (2448, 3264),
}


def draw(folder: Path, size: tuple[int, int]) -> dict:
    """Return a dataset dict with every kind of annotation; write its files to ``folder``."""
    height, width = size
    generator = np.random.default_rng(0)
    points = generator.uniform((0, 0), size, (NUM_SEGMENTS, 2))
    index = KDTree(points).query(np.indices(size).reshape(2, -1).T)[1].reshape(size)
    colors = generator.integers(1, 255, (NUM_SEGMENTS, 3), dtype=np.uint8)
    texture = generator.integers(0, 64, (*size, 3), dtype=np.uint8)
    ids = colors.astype(int) @ (1, 256, 256**2)
    paths = {
        "file_name": folder / "photo.jpg",
        "pan_seg_file_name": folder / "panoptic.png",
        "sem_seg_file_name": folder / "semantic.png",
    }
    Image.fromarray(colors[index] // 2 + texture).save(paths["file_name"])
    Image.fromarray(colors[index]).save(paths["pan_seg_file_name"])
    Image.fromarray(index.astype(np.uint8)).save(paths["sem_seg_file_name"])
    return {
        **{key: str(path) for key, path in paths.items()},
        "height": height,
        "width": width,
        "segments_info": [
            {"id": int(identity), "category_id": i, "iscrowd": 0} for i, identity in enumerate(ids)
        ],
        "annotations": [
            {
                "segmentation": outlines(index == i),
                "bbox": [0, 0, width, height],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
            }
            for i in range(NUM_SEGMENTS)
        ],
    }


def outlines(mask: np.ndarray) -> list[list[float]]:
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    return [(contour.ravel() + 0.5).tolist() for contour in contours if len(contour) > 2]


def milliseconds(mapper, dataset_dict: dict, repeat: int) -> list[float]:
    np.random.seed(0)  # noqa: NPY002 the mappers draw from the global streams
    random.seed(0)
    times = []
    for _ in range(repeat + 1):
        start = time.process_time()
        mapper(dataset_dict)
        times.append(1000 * (time.process_time() - start))
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=20)
    repeat = parser.parse_args().repeat
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    for config, size in CASES.items():
        cfg = get_cfg()
        cfg.merge_from_file(str(CONFIGS / config))
        with tempfile.TemporaryDirectory() as folder:
            times = milliseconds(build_train_mapper(cfg), draw(Path(folder), size), repeat)
        dataset, task = config.split("/")[:2]
        name = cfg.INPUT.DATASET_MAPPER_NAME
        rows.append([f"{dataset} {task}", name, size, np.mean(times), np.median(times), max(times)])
    headers = ["configuration", "mapper", "photo", "mean ms", "median ms", "longest ms"]
    print(tabulate(rows, headers, floatfmt=".1f"))


if __name__ == "__main__":
    main()
