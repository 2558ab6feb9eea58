"""What a reader of a format gives: classes, photos, and the annotation of each when it is asked."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

from segcore.data.convert.painting import LabelMap, Regions
from segcore.data.images import is_image_name
from segcore.data.listing import HIDDEN_PREFIX
from segcore.data.record_rules import file_name_fault
from segcore.data.report import Problem
from segcore.errors import DataError
from segcore.text import printable, short_repr

SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val"}


@dataclass(frozen=True)
class SourceClass:
    """A class of a source.

    Attributes:
        is_thing: what the format says, if it does.
    """

    id: int
    name: str
    is_thing: bool | None = None
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class AnnotatedPhoto:
    """A photo of a source.

    Attributes:
        file_name: relative to the folder of photos.
        files: that hold its annotation; a change of one has the photo converted anew.
        read: from its (height, width) as shown to its annotation. Raises a DataError.
        split: "" where the source does not say.
    """

    file_name: str
    files: tuple[Path, ...]
    read: Callable[[tuple[int, int]], Regions | LabelMap]
    split: str = ""


@dataclass
class Source:
    """Everything that a reader lists.

    Attributes:
        images: folder of photos.
        problems: files that could not be listed.
        things_by_default: whether classes are things where neither format nor user says.
    """

    images: Path
    classes: list[SourceClass]
    photos: list[AnnotatedPhoto]
    problems: list[Problem] = field(default_factory=list)
    things_by_default: bool = True


@dataclass(frozen=True)
class Request:
    """What the user names.

    Attributes:
        sources: (split or "", path) in the order of the command line.
        images: folder of photos, if it is named.
        class_list: file with the names of the classes, if it is named.
    """

    sources: list[tuple[str, Path]]
    images: Path | None = None
    class_list: Path | None = None

    @property
    def single(self) -> Path:
        """The one source, of formats that take no more."""
        if len(self.sources) > 1:
            names = ", ".join(printable(path) for _, path in self.sources)
            raise DataError(f"expected one source of this format, got {names}")
        return self.sources[0][1]

    @property
    def folder(self) -> Path:
        """The one source, of formats that are a folder with fixed names in it."""
        if not self.single.is_dir():
            raise DataError(f"{printable(self.single)}: expected a folder, got a file")
        return self.single

    def images_or(self, folder: Path) -> Path:
        """Return the folder of photos, ``folder`` unless the user names one.

        Raises:
            DataError: it does not exist.
        """
        images = self.images or folder
        if not images.is_dir():
            hint = "" if self.images else ": name the folder of the photos (--images)"
            raise DataError(f"{printable(images)}: the folder of photos does not exist{hint}")
        return images


def split_name(name: str) -> str:
    """Return the usual name of a split: "val" for "valid" and "validation"."""
    return SPLIT_NAMES.get(name.lower(), name)


def find_photo(images: Path, name: object, near: str = "") -> str:
    """Return the name, relative to ``images``, of the photo that an annotation names.

    Annotation tools write names relative to different folders: tried are the name as it is, the
    name below ``near``, and the last part of the name in both places; then, as Windows does, the
    same with the last part in any case.

    Args:
        near: folder of the annotation, relative to ``images``.

    Raises:
        DataError: the name is none, leaves the folder, or there is no such photo.
    """
    shown = short_repr(name)
    name = name.replace("\\", "/") if isinstance(name, str) else name
    candidates = [name]
    if isinstance(name, str):
        last = PurePosixPath(name).name
        candidates += [f"{near}/{name}", f"{near}/{last}" if near else last, last]
    faults = [file_name_fault(candidate) for candidate in candidates]
    sound = [
        os.path.normpath(candidate)
        for candidate, fault in zip(candidates, faults, strict=True)
        if fault is None
    ]
    for candidate in sound:
        if (images / candidate).is_file():
            return candidate
    for candidate in sound:
        if spelling := _other_case(images, candidate):
            return spelling
    if not sound:
        raise DataError(f"the name of its photo: {faults[0]}")
    raise DataError(f"its photo {shown} is not in {printable(images)}")


def _other_case(images: Path, name: str) -> str | None:
    """Return the name of the only file that differs in the case of its last part, if any."""
    parent, last = os.path.split(name)
    folder = images / parent
    try:
        spellings = _spellings(str(folder), folder.stat().st_mtime_ns).get(last.casefold(), [])
    except OSError:
        return None
    is_file = len(spellings) == 1 and (folder / spellings[0]).is_file()
    return os.path.join(parent, spellings[0]) if is_file else None


@lru_cache(maxsize=16)
def _spellings(folder: str, modified: int) -> dict[str, list[str]]:
    """Return the names in a folder by their form without case.

    Args:
        modified: time of the folder's last change, with which an older answer is outdated.
    """
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        names.setdefault(name.casefold(), []).append(name)
    return names


def photos_by_stem(images: Path) -> dict[str, str]:
    """Return the photos below a folder: relative name without suffix -> relative name."""
    return {os.path.splitext(name)[0]: name for name in _files_of(images) if is_image_name(name)}


def _files_of(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.startswith(HIDDEN_PREFIX):
                yield os.path.relpath(os.path.join(parent, name), folder)


def relative_folder(path: Path, images: Path) -> str:
    """Return the folder of a file relative to ``images``, "" where it is not below."""
    parent, root = path.resolve().parent, images.resolve()
    return str(parent.relative_to(root)) if parent.is_relative_to(root) else ""
