"""Problems of a photo and its panoptic PNG: missing, broken, of another size, other segments."""

from collections.abc import Iterator
from pathlib import Path

from segcore.data.check_segments import segment_problems
from segcore.data.images import (
    MAX_PIXELS,
    changes_on_reading,
    exif_orientation,
    load_image,
    open_image,
    stored_size,
)
from segcore.data.panoptic_format import (
    Annotation,
    Photo,
    read_panoptic_png,
)
from segcore.data.report import Problem
from segcore.errors import ImageError
from segcore.text import printable

TURNING_ORIENTATIONS = {5, 6, 7, 8}  # EXIF orientations that swap height and width


def header_problems(
    images: Path,
    photo: Photo,
    pngs: Path,
    annotation: Annotation,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Problem]:
    """Missing and refused files and sizes that disagree, from the headers of photo and PNG."""
    expected = (photo["width"], photo["height"])
    photo_path = images / photo["file_name"]
    for path in (photo_path, pngs / annotation["file_name"]):
        if not path.exists():
            yield Problem(
                "missing file",
                str(path),
                "does not exist: correct the folder's path, or 'file_name' in the JSON",
            )
            continue
        try:
            with open_image(path, max_pixels) as image:
                size = stored_size(image)
                # Asking a PNG for EXIF decodes it; of id PNGs read_ids does.
                orientation = exif_orientation(image) if path == photo_path else 1
                changes = changes_on_reading(image) if path == photo_path else []
        except ImageError as error:
            yield unreadable_image(path, error, "photo" if path == photo_path else "panoptic PNG")
            continue
        for change in changes:
            yield Problem("changed pixels", str(path), change, is_error=False)
        yield from _size_problems(path, size, orientation, expected)


def unreadable_image(path: str | Path, error: ImageError, kind: str = "image") -> Problem:
    """The problem of an image that training would refuse, for the reason of ``error``."""
    return Problem(f"unreadable {kind}", str(path), str(error).removeprefix(f"{printable(path)}: "))


def _size_problems(
    path: Path, size: tuple[int, int], orientation: int, expected: tuple[int, int]
) -> Iterator[Problem]:
    """Compare (width, height) as stored, and as Detectron2 turns it for EXIF, with the JSON's."""
    turned = size[::-1] if orientation in TURNING_ORIENTATIONS else size
    is_turned = orientation in range(2, 9)
    if turned != expected and size == expected:
        yield Problem(
            "EXIF orientation",
            str(path),
            f"is {size[0]} x {size[1]} as the JSON says, but its EXIF orientation {orientation} "
            f"turns it to {turned[0]} x {turned[1]}: remove the EXIF tag if the annotation is of "
            "the photo as stored, else annotate the turned photo",
        )
    elif turned != expected:
        yield Problem(
            "different sizes",
            str(path),
            f"is {turned[0]} x {turned[1]} (width x height), but the JSON says "
            f"{expected[0]} x {expected[1]}: correct the JSON, or replace the file",
        )
    elif is_turned:
        yield Problem(
            "EXIF orientation",
            str(path),
            f"will be turned by its EXIF orientation {orientation}: make sure that the annotation "
            "is of the turned photo, or remove the tag",
            is_error=False,
        )


def pixel_problems(
    images: Path,
    photo: Photo,
    pngs: Path,
    annotation: Annotation,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Problem]:
    """Header problems, photos that break off, and segments that disagree with the PNG."""
    problems = list(header_problems(images, photo, pngs, annotation, max_pixels))
    yield from problems
    wrong = {problem.file for problem in problems if problem.is_error}
    photo_path, png_path = images / photo["file_name"], pngs / annotation["file_name"]
    if str(photo_path) not in wrong:
        try:
            load_image(photo_path, max_pixels)
        except ImageError as error:
            yield unreadable_image(photo_path, error, "photo")
    if str(png_path) in wrong:
        return
    try:
        ids = read_panoptic_png(png_path, max_pixels)
    except ImageError as error:
        yield unreadable_image(png_path, error, "panoptic PNG")
        return
    yield from segment_problems(str(png_path), ids, annotation)
