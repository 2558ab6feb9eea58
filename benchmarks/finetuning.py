"""Fine-tuning on 40 photos of classes that the model has not seen, beside training from scratch.

    python -m benchmarks.finetuning [--photos 40] [--iterations 300] [--pretraining 1000]

The quickstart's Mask2Former is trained on half of the classes that ``segcore.data.quickstart``
draws, the other half being unlabeled. Then every way of ``WAYS`` trains on a few photos with the
other half labeled, with the same schedule. What is in the folder from an earlier run is kept.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from panopticapi.utils import id2rgb
from tabulate import tabulate

from segcore.data.images import encode_image
from segcore.data.panoptic_format import read_panoptic_png
from segcore.data.quickstart import generate
from segcore.files import write_bytes, write_json

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/quickstart/mask2former_R18.yaml"
PRETRAINING_CLASSES = ("disc", "square", "triangle", "sky", "wall")
NEW_CLASSES = ("star", "ring", "grass", "water")
PRETRAINED = "weights of the other classes"
# Name -> settings beyond the schedule; PRETRAINED stands for the file.
WAYS = {
    "from scratch": {},
    "fine-tuned": {"MODEL.WEIGHTS": PRETRAINED},
    "fine-tuned, learning rate 0.0002": {
        "MODEL.WEIGHTS": PRETRAINED,
        "SOLVER.BASE_LR": 0.0002,
    },
    "fine-tuned, average of weights": {
        "MODEL.WEIGHTS": PRETRAINED,
        "SOLVER.EMA.ENABLED": True,
        "SOLVER.EMA.DECAY": 0.95,
    },
    "fine-tuned, two parts frozen": {"MODEL.WEIGHTS": PRETRAINED, "MODEL.BACKBONE.FREEZE": 2},
}
RESULTS = ("panoptic_seg/PQ", "panoptic_seg/SQ", "panoptic_seg/RQ", "sem_seg/mIoU")


def keep_classes(source: Path, target: Path, names: tuple[str, ...], count: int | None) -> None:
    """Write annotations of the first ``count`` photos that have one of these classes.

    Segments of other classes become unlabeled. The photos stay where they are.
    """
    content = json.loads((source / "panoptic.json").read_text())
    categories = [category for category in content["categories"] if category["name"] in names]
    kept_ids = {category["id"] for category in categories}
    images = {image["id"]: image for image in content["images"]}
    annotations = []
    for annotation in content["annotations"]:
        segments = [s for s in annotation["segments_info"] if s["category_id"] in kept_ids]
        if segments and (count is None or len(annotations) < count):
            name = annotation["file_name"]
            ids = read_panoptic_png(source / "panoptic" / name)
            ids[~np.isin(ids, [segment["id"] for segment in segments])] = 0
            (target / "panoptic").mkdir(parents=True, exist_ok=True)
            write_bytes(encode_image(id2rgb(ids), "PNG"), target / "panoptic" / name)
            annotations.append({**annotation, "segments_info": segments})
    photos = [images[annotation["image_id"]] for annotation in annotations]
    content = {"categories": categories, "images": photos, "annotations": annotations}
    write_json(content, target / "panoptic.json")


def make_data(root: Path, photos: int) -> dict[str, dict[str, Path]]:
    """Draw the data; return the settings of the data of pre-training and of fine-tuning."""
    drawn = generate(root / "drawn")
    settings = {}
    for name, classes, count in (
        ("pretraining", PRETRAINING_CLASSES, None),
        ("finetuning", NEW_CLASSES, photos),
    ):
        settings[name] = {}
        for key, split, most in (("TRAIN", "train", count), ("TEST", "val", None)):
            folder = root / name / split
            keep_classes(drawn / split, folder, classes, most)
            prefix = f"DATASETS.PANOPTIC.{key}"
            settings[name] |= {
                f"{prefix}.IMAGES": drawn / split / "images",
                f"{prefix}.JSON": folder / "panoptic.json",
                f"{prefix}.PNGS": folder / "panoptic",
            }
    return settings


def schedule(iterations: int) -> dict[str, object]:
    return {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": f"({iterations * 5 // 6}, {iterations * 19 // 20})",
        "SOLVER.CHECKPOINT_PERIOD": iterations,
        "SEED": 0,
    }


def train(output: Path, settings: dict[str, object]) -> dict[str, float]:
    """Train unless that is done; return the last value of everything in ``metrics.json``."""
    if not (output / "model_final.pth").exists():
        pairs = [str(part) for pair in settings.items() for part in pair]
        subprocess.run(
            [
                *(sys.executable, ROOT / "train_net.py", "--config-file", CONFIG, "--resume"),
                *("OUTPUT_DIR", output, *pairs),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    lines = (output / "metrics.json").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--pretraining", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("output/finetuning"))
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    data = make_data(output / "data", arguments.photos)
    train(output / "pretraining", data["pretraining"] | schedule(arguments.pretraining))
    weights = output / "pretraining" / "model_final.pth"
    rows = []
    for name in arguments.only:
        settings = {
            key: weights if value == PRETRAINED else value for key, value in WAYS[name].items()
        }
        settings = data["finetuning"] | schedule(arguments.iterations) | settings
        start = time.perf_counter()
        values = train(output / name.replace(" ", "_").replace(",", ""), settings)
        rows.append([name, *(values[result] for result in RESULTS), time.perf_counter() - start])
    headers = [*(result.partition("/")[2] for result in RESULTS), "seconds"]
    print(tabulate(rows, ["", *headers], floatfmt=".1f"))


if __name__ == "__main__":
    main()
