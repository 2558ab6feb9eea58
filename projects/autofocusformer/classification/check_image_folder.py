"""A scan of image folders before they are trained on: every image that cannot be read."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

from torchvision.datasets.folder import make_dataset
from tqdm import tqdm

from autofocusformer.classification.image_folder import (
    classes_without_images,
    read_classes,
    require_same_classes,
)
from segcore.data.check_files import unreadable_image
from segcore.data.images import (
    MAX_PIXELS,
    changes_on_reading,
    is_image_name,
    load_image,
    open_image,
)
from segcore.data.report import Problem, Report
from segcore.errors import DataError, ImageError
from segcore.text import printable

MAX_WORKERS = 16


def check_image_folders(
    folders: dict[str, Path], *, max_pixels: int = MAX_PIXELS, progress: bool = True
) -> list[Report]:
    """Read every image of every split ("TRAIN", "TEST"); a report for each."""
    reports = [_check(split, folder, max_pixels, progress) for split, folder in folders.items()]
    if all(report.ok for report in reports):
        try:
            classes = {split: read_classes(folder) for split, folder in folders.items()}
            require_same_classes(folders, classes)
        except DataError as error:
            problem = Problem("different classes", str(folders["TEST"]), str(error))
            reports[-1].problems.append(problem)
    return reports


def _check(split: str, folder: Path, max_pixels: int, progress: bool) -> Report:
    report = Report(str(folder), split=split)
    try:
        classes = read_classes(folder)
    except DataError as error:
        message = str(error).removeprefix(f"{printable(folder)}: ")
        report.problems.append(Problem("wrong path", str(folder), message))
        return report
    report.problems += [
        Problem("empty class", str(folder / name), "has no image: add some, or remove the folder")
        for name in classes_without_images(folder, classes)
    ]
    samples = make_dataset(folder, is_valid_file=is_image_name, allow_empty=True)
    paths = [path for path, _ in samples]
    with ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        found = pool.map(partial(_image_problems, max_pixels=max_pixels), paths)
        bar = tqdm(found, "Checking data", len(paths), unit="image", disable=not progress, delay=1)
        report.problems += chain.from_iterable(bar)
    return report


def _image_problems(path: str, max_pixels: int) -> list[Problem]:
    try:
        with open_image(path, max_pixels) as image:
            changes = changes_on_reading(image)
        load_image(path, max_pixels)
    except ImageError as error:
        return [unreadable_image(path, error)]
    return [Problem("changed pixels", path, change, is_error=False) for change in changes]
