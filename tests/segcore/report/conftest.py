"""The report of a small evaluation with hostile names, and a browser to look at pages."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from segcore.cli import run_command
from segcore.config import get_cfg
from segcore.evaluation import PanopticQuality
from segcore.report.content import (
    category_content,
    evaluation_content,
    panoptic_content,
    photo_content,
)
from segcore.report.evaluator import write_evaluation_page
from segcore.report.photos import PhotoChoice, chosen_photos

HEIGHT, WIDTH = 60, 80
HOSTILE = "</script><script>document.title=1</script><b onclick=x>"
CATEGORIES = [
    {"id": 5, "name": "sky", "isthing": 0, "color": [90, 140, 240]},
    {"id": 2, "name": HOSTILE, "isthing": 1, "color": [220, 40, 60]},
    {"id": 9, "name": "$cat_$", "isthing": 1, "color": [250, 180, 20]},
]
METRICS = (
    '{"iteration": 19, "total_loss": 9.5, "lr": 0.0001, "broken": [], "sem_seg/mIoU": NaN}\n'
    '{"iteration": 39, "total_loss": 4.5, "lr": 0.0002, "panoptic_seg/PQ": 41.0}\n'
    '{"iteration": 59, "total_loss": 3.5, "lr": 0.0001, "panoptic_seg/PQ": 52.0}\n{"iterat'
)


def scene(number: int) -> tuple[np.ndarray, list[dict]]:
    """Sky, and a hostile square that becomes smaller from photo to photo."""
    ids = np.full((HEIGHT, WIDTH), 7)
    ids[20 : 50 - 4 * number, 10:50] = 300
    return ids, [{"id": 7, "category_id": 5}, {"id": 300, "category_id": 2}]


def prediction(number: int) -> tuple[np.ndarray, list[dict]]:
    """The square is found with another size; in photo 2 as a cat."""
    ids = np.full((HEIGHT, WIDTH), 1)
    ids[20:45, 10:50] = 2
    found_as = 9 if number == 2 else 2
    return ids, [{"id": 1, "category_id": 5, "score": 0.9}, {"id": 2, "category_id": found_as}]


def make_content(folder: Path, shift: int = 0) -> dict:
    """Evaluate three photos; return what the report holds."""
    quality, boundary = (PanopticQuality(CATEGORIES, boundary=value) for value in (False, True))
    choice = PhotoChoice({category["id"]: i for i, category in enumerate(CATEGORIES)})
    for number in range(3):
        path = folder / f"<b>photo {number}.png"
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90 + 40 * number, np.uint8)).save(path)
        ids, segments = prediction(number)
        pair = np.roll(ids, shift, axis=1), segments
        outcomes = quality.outcomes(*pair, *scene(number))
        choice.add(number, str(path), pair, scene(number), outcomes)
        for measure in (quality, boundary):
            measure.update(*pair, *scene(number))
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.WEIGHTS = "a&b.pth"
    (folder / "metrics.json").write_text(METRICS)
    results = {
        "panoptic_seg": {"PQ": 50.0},
        "sem_seg": {"mIoU": float("nan"), "fwIoU": 60.0, f"IoU-{HOSTILE}": 70.0, "IoU-sky-2": 1.0},
    }
    content = evaluation_content(cfg, "few_photos", results)
    content["panoptic"] = panoptic_content(quality.compute(), boundary.compute())
    content["categories"] = category_content(CATEGORIES)
    content["photos"] = photo_content(chosen_photos(choice.photos, len(CATEGORIES)))
    return content


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Content and path of a report."""
    folder = tmp_path_factory.mktemp("report")
    content = make_content(folder)
    write_evaluation_page(folder / "report.html", content)
    return SimpleNamespace(content=content, path=folder / "report.html")


@pytest.fixture(scope="session")
def comparison(report: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page of the report beside one of shifted predictions."""
    folder = tmp_path_factory.mktemp("shifted")
    write_evaluation_page(folder / "report.html", make_content(folder, shift=6))
    page = folder / "compare.html"
    assert run_command("compare", [str(report.path), str(folder), "--output", str(page)]) == 0
    return page
