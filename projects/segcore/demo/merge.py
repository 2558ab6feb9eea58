"""The work of ``segcore merge``: results of shards become those of one run."""

import argparse
import itertools
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segcore.demo.names import free_stem
from segcore.demo.output import PHOTO_FOLDERS
from segcore.demo.result_files import Results, Run, read_results, write_results
from segcore.errors import ConfigError, DataError
from segcore.files import atomic_folder
from segcore.text import printable

SUFFIXES = (".jpg", ".png")  # of pictures; overlays of videos lie beside them
MAX_NAMED = 8  # shards in a message


def main(args: argparse.Namespace) -> int:
    """Join the folders that the arguments of :mod:`segcore.cli.merge` name."""
    folders = list(map(Path, args.folders))
    run, done = merge(folders, args.output, partial=args.partial)
    print(
        f"{done} of {run.listed} photos of {len(folders)} shards, results in "
        f"{printable(args.output)}"
    )
    return 0


def merge(folders: Sequence[Path], output: str | Path, *, partial: bool = False) -> tuple[Run, int]:
    """Join the results of shards in a new folder, as one run would have written them.

    Args:
        folders: outputs of ``segcore predict --shard``.
        partial: shards may be missing or unfinished.

    Returns:
        The run as a whole, and the number of photos that are done.

    Raises:
        ConfigError: ``output`` exists.
        DataError: a folder has no results, or they do not belong together.
        OutputError: a file cannot be written.
    """
    if Path(output).exists():
        raise ConfigError(f"--output {printable(output)}: expected a new folder, got one")
    shards = [read_results(folder) for folder in folders]
    _check_one_run(shards, folders)
    _check_photos(shards, folders)
    if not partial:
        _check_complete(shards, folders)
    first = shards[0].run
    merged = Results(shards[0].categories, Run((1, 1), first.listed, first.settings, not partial))
    with atomic_folder(output) as target:
        stems: set[str] = set()
        for image, sources, annotation in _images(shards, folders):
            stem = free_stem(Path(image["file_name"]), stems)
            stems.add(stem)
            for source in sources:
                _link(source, target / source.parent.name / f"{stem}{source.suffix}")
            merged.images.append({**image, "name": stem})
            if annotation:
                merged.annotations.append({**annotation, "file_name": f"{stem}.png"})
        if any(shard.instances is not None for shard in shards):
            instances = itertools.chain(*(shard.instances or () for shard in shards))
            merged.instances = sorted(instances, key=lambda record: record["image_id"])
        write_results(merged, target)
    return merged.run, len(merged.images)


def _check_one_run(shards: Sequence[Results], folders: Sequence[Path]) -> None:
    """Raise DataError unless the shards are different ones of one run."""
    first, seen = shards[0], {}
    for shard, folder in zip(shards, folders, strict=True):
        run, expected = shard.run, first.run
        pairs = {
            "number of shards": (expected.shard[1], run.shard[1]),
            "number of listed photos": (expected.listed, run.listed),
            **{name: (value, run.settings.get(name)) for name, value in expected.settings.items()},
        }
        for name, (value, other) in pairs.items():
            if value != other:
                raise DataError(
                    f"{printable(folder)}: {name}: expected {printable(value)}, as "
                    f"{printable(folders[0])} has, got {printable(other)}"
                )
        if shard.categories != first.categories:
            raise DataError(f"{printable(folder)}: expected the classes of {printable(folders[0])}")
        if run.shard in seen:
            raise DataError(
                f"{run.name} twice, in {printable(seen[run.shard])} and {printable(folder)}"
            )
        seen[run.shard] = folder


def _check_photos(shards: Sequence[Results], folders: Sequence[Path]) -> None:
    """Raise DataError if shards share a photo or the id of one."""
    for key in ("file_name", "id"):
        seen: dict[Any, Path] = {}
        for shard, folder in zip(shards, folders, strict=True):
            for image in shard.images:
                if image[key] in seen:
                    raise DataError(
                        f"{key} {printable(image[key])}: in {printable(seen[image[key]])} and "
                        f"again in {printable(folder)}; the shards had different lists of photos"
                    )
                seen[image[key]] = folder


def _check_complete(shards: Sequence[Results], folders: Sequence[Path]) -> None:
    """Raise DataError if a shard is missing or has not come to its end."""
    count = shards[0].run.shard[1]
    there = {shard.run.shard[0] for shard in shards}
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in there]
    unfinished = [
        f"{shard.run.name} in {printable(folder)} ({len(shard.images)} of {shard.run.num_photos})"
        for shard, folder in zip(shards, folders, strict=True)
        if not shard.run.finished
    ]
    faults = [f"expected all {count} shards, missing {_some(missing)}"] * bool(missing)
    if unfinished:
        faults.append(f"not finished: {_some(unfinished)}; run them again with --resume")
    if faults:
        raise DataError("\n".join([*faults, "--partial joins what is there"]))


def _some(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _images(
    shards: Sequence[Results], folders: Sequence[Path]
) -> Iterator[tuple[dict[str, Any], list[Path], dict[str, Any] | None]]:
    """Yield each photo by its id: its image, its pictures, and its annotation."""
    rows = []
    for shard, folder in zip(shards, folders, strict=True):
        pictures = _pictures(folder)
        annotations = {annotation["image_id"]: annotation for annotation in shard.annotations}
        for image in shard.images:
            annotation = annotations.get(image["id"])
            sources = pictures.get(image["name"], [])
            if annotation and all(source.parent.name != "panoptic" for source in sources):
                raise DataError(
                    f"{printable(folder)}: the PNG of {printable(image['file_name'])} is missing; "
                    f"run {shard.run.name} again with --resume"
                )
            rows.append((image, sources, annotation))
    return iter(sorted(rows, key=lambda row: row[0]["id"]))


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """Return the pictures of each photo, by its name."""
    pictures = defaultdict(list)
    for kind in PHOTO_FOLDERS:
        if (folder / kind).is_dir():
            for path in (folder / kind).iterdir():
                if path.suffix in SUFFIXES:
                    pictures[path.stem].append(path)
    return pictures


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
