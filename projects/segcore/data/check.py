"""A scan of a panoptic data set before it is trained on: every problem, its file, what to do."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from segcore.data.check_files import header_problems, pixel_problems
from segcore.data.check_json import json_problems, too_many_categories
from segcore.data.images import MAX_PIXELS
from segcore.data.panoptic_format import PanopticJson, num_workers, read_panoptic_json
from segcore.data.record_rules import (
    annotation_faults,
    category_faults,
    photo_faults,
    sound_segments,
)
from segcore.data.report import ClassCount, Problem, Report
from segcore.errors import DataError
from segcore.files import relative_to
from segcore.text import printable


def check_panoptic_dataset(
    images: str | Path,
    json: str | Path,
    pngs: str | Path,
    *,
    split: str = "",
    evaluation: bool = False,
    quick: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
) -> Report:
    """Look for everything in a data set of COCO panoptic format that would disturb training.

    Args:
        images: folder of the photos; the JSON's ``images`` have file names relative to it.
        json: the panoptic JSON.
        pngs: folder of the panoptic PNGs; the JSON's ``annotations`` name them.
        split: "TRAIN" or "TEST", for the report.
        evaluation: ask for what only evaluation needs, too (distinct file names of the photos).
        quick: read the JSON and the headers of the files, no pixels.
        max_pixels: images with more are errors.
        progress: show a progress bar.
    """
    report = Report(str(json), split=split)
    for folder, name in ((images, "image folder"), (pngs, "folder of panoptic PNGs")):
        if not Path(folder).is_dir():
            fault = f"the {name} does not exist{relative_to(folder)}: correct the path"
            report.problems.append(Problem("wrong path", str(folder), fault))
    try:
        data = read_panoptic_json(json)
    except DataError as error:
        message = str(error).removeprefix(f"{printable(json)}: ")
        report.problems.append(Problem("wrong path or format", str(json), message))
    else:
        # Alone: to look at a million of them would take long.
        report.problems += filter(None, [too_many_categories(str(json), data)])
    if report.problems:
        return report

    report.num_photos, report.num_annotations = len(data["images"]), len(data["annotations"])
    report.problems += json_problems(str(json), data, evaluation)
    report.classes = _count_classes(data)
    # Broken records have been reported; what is left of them has no file to look at.
    photos = {photo["id"]: photo for photo in data["images"] if not photo_faults(photo)}
    tasks = [
        (Path(images), photos[annotation["image_id"]], Path(pngs), annotation)
        for annotation in data["annotations"]
        if not annotation_faults(annotation) and annotation["image_id"] in photos
    ]
    check = header_problems if quick else pixel_problems
    with ThreadPoolExecutor(num_workers(photos.values())) as pool:
        problems_of_photos = pool.map(lambda task: list(check(*task, max_pixels)), tasks)
        for problems in tqdm(
            problems_of_photos,
            "Checking data",
            len(tasks),
            unit="photo",
            disable=not progress,
            delay=1,
        ):
            report.problems += problems
    return report


def _count_classes(data: PanopticJson) -> list[ClassCount]:
    categories = [category for category in data["categories"] if not category_faults(category)]
    counts = {
        category["id"]: ClassCount(category["name"], bool(category["isthing"]))
        for category in categories
    }
    for annotation in data["annotations"]:
        for segment in sound_segments(annotation):
            if segment["category_id"] in counts:
                count = counts[segment["category_id"]]
                count.segments += 1
                count.crowds += segment.get("iscrowd", 0)
    return list(counts.values())
