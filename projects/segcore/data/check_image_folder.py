"""A scan of image folders before they are trained on: every image that cannot be read."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from torchvision.datasets.folder import is_image_file, make_dataset
from tqdm import tqdm

from segcore.data.image_folder import classes_without_images, read_classes, require_same_classes
from segcore.data.panoptic_format import IMAGE_ERRORS
from segcore.data.report import Problem, Report
from segcore.errors import DataError

MAX_WORKERS = 16


def check_image_folders(folders: dict[str, Path], *, progress: bool = True) -> list[Report]:
    """Read every image of every split ("TRAIN", "TEST"); a report for each."""
    reports = [_check(folder, progress) for folder in folders.values()]
    if all(report.ok for report in reports):
        try:
            classes = {split: read_classes(folder) for split, folder in folders.items()}
            require_same_classes(folders, classes)
        except DataError as error:
            problem = Problem("different classes", str(folders["TEST"]), str(error))
            reports[-1].problems.append(problem)
    return reports


def _check(folder: Path, progress: bool) -> Report:
    report = Report(str(folder))
    try:
        classes = read_classes(folder)
    except DataError as error:
        message = str(error).removeprefix(f"{folder}: ")
        report.problems.append(Problem("wrong path", str(folder), message))
        return report
    report.problems += [
        Problem("empty class", str(folder / name), "has no image: add some, or remove the folder")
        for name in classes_without_images(folder, classes)
    ]
    samples = make_dataset(folder, is_valid_file=is_image_file, allow_empty=True)
    paths = [path for path, _ in samples]
    with ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        found = pool.map(_image_problem, paths)
        bar = tqdm(found, "Checking data", len(paths), unit="image", disable=not progress, delay=1)
        report.problems += filter(None, bar)
    return report


def _image_problem(path: str) -> Problem | None:
    try:
        with Image.open(path) as image:
            image.load()
    except IMAGE_ERRORS as error:
        return Problem("broken image", path, f"cannot be read ({error}): save it anew")
    return None
