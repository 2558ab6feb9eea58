"""The JSON files of ``segcore predict``, written, read again, and what makes them fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segcore.data.json_file import read_json
from segcore.data.panoptic_format import Category
from segcore.errors import DataError
from segcore.files import write_json
from segcore.text import printable, short_repr

PHOTOS_FILE, PANOPTIC_FILE, INSTANCES_FILE = "photos.json", "panoptic.json", "instances.json"
# Fields of PHOTOS_FILE and of its images -> type.
_FIELDS = {
    "shard": list,
    "listed": int,
    "finished": bool,
    "settings": dict,
    "categories": list,
    "images": list,
}
_IMAGE_FIELDS = {"id": int, "file_name": str, "height": int, "width": int, "name": str}


@dataclass
class Run:
    """What a run of ``segcore predict`` was asked for.

    Attributes:
        shard: (i, n) for shard i of n, from 1.
        listed: number of photos of all shards.
        settings: arguments that the results depend on.
        finished: it came to its end, so that photos without results have failed.
    """

    shard: tuple[int, int] = (1, 1)
    listed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = False

    @property
    def name(self) -> str:
        return "shard {}/{}".format(*self.shard)

    @property
    def num_photos(self) -> int:
        """Number of photos of this shard."""
        number, count = self.shard
        return len(range(number - 1, self.listed, count))


@dataclass
class Results:
    """Results of photos.

    Attributes:
        categories: of the model.
        run: that they come from; None for none that can be resumed or merged.
        images: dicts with "id", "file_name", "height", "width" and "name", that of the files of the
            photo without suffix.
        annotations: of COCO's panoptic format.
        instances: of COCO's result format; None for a model without instances.
    """

    categories: Sequence[Category]
    run: Run | None = None
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] | None = None


def write_results(results: Results, folder: str | Path) -> None:
    """Write the JSON files, each atomically; those of earlier results are replaced or deleted.

    ``photos.json`` is the last one: what it lists is in the others.

    Raises:
        OutputError: they cannot be written.
    """
    categories = list(results.categories)
    images = [{k: v for k, v in image.items() if k != "name"} for image in results.images]
    panoptic = {"images": images, "annotations": results.annotations, "categories": categories}
    _write(results.instances, Path(folder, INSTANCES_FILE))
    _write(panoptic if results.annotations else None, Path(folder, PANOPTIC_FILE))
    run = None
    if results.run:
        run = {**vars(results.run), "categories": categories, "images": results.images}
    _write(run, Path(folder, PHOTOS_FILE))


def _write(content: Any, path: Path) -> None:
    if content is None:
        path.unlink(missing_ok=True)  # of an earlier run, with another model
    else:
        write_json(content, path)


def read_results(folder: str | Path) -> Results:
    """Read what :func:`write_results` has written, of the photos that are done.

    Raises:
        DataError: a file is missing or damaged.
    """
    path = Path(folder, PHOTOS_FILE)
    content = read_json(path)
    _check(content, _FIELDS, path)
    for image in content["images"]:
        _check(image, _IMAGE_FIELDS, path)
    shard = content["shard"]
    if len(shard) != 2 or not all(isinstance(number, int) for number in shard) or shard[1] < 1:
        raise DataError(f"{printable(path)}: shard: expected [i, n], got {short_repr(shard)}")
    done = {image["id"] for image in content["images"]}
    return Results(
        content["categories"],
        Run(tuple(shard), content["listed"], content["settings"], content["finished"]),
        content["images"],
        _of_images(done, Path(folder, PANOPTIC_FILE), "annotations") or [],
        _of_images(done, Path(folder, INSTANCES_FILE)),
    )


def _of_images(done: set[int], path: Path, key: str | None = None) -> list[dict] | None:
    """Return the records of a file whose "image_id" is in ``done``; None without such a file."""
    if not path.exists():
        return None
    records = read_json(path)
    if key:
        _check(records, {key: list}, path)
        records = records[key]
    if not isinstance(records, list):
        raise DataError(f"{printable(path)}: expected a list, got {short_repr(records)}")
    for record in records:
        _check(record, {"image_id": int}, path)
    return [record for record in records if record["image_id"] in done]


def _check(record: Any, fields: Mapping[str, type], path: Path) -> None:
    for name, kind in fields.items():
        value = record.get(name) if isinstance(record, dict) else None
        if not isinstance(value, kind):
            raise DataError(
                f"{printable(path)}: {name}: expected {kind.__name__}, got {short_repr(value)}; "
                "segcore predict did not write this file"
            )
