"""Writing of a converted data set: panoptic PNGs, a JSON a split, a config, a list of problems.

The folder can be written again at any time: a log in it says which photos are done, from which
state of the files, so that a killed run goes on, and a second run converts what has changed.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from panopticapi.utils import id2rgb
from tqdm import tqdm

from segcore.data.convert.painting import paint
from segcore.data.convert.source import AnnotatedPhoto
from segcore.data.derived import encode_png, locked
from segcore.data.images import MAX_PIXELS, load_image
from segcore.data.panoptic_format import Category, num_workers, thing_category_ids
from segcore.data.record_rules import file_name_fault
from segcore.data.report import Problem
from segcore.errors import DataError, OutputError
from segcore.files import remove_partial_files, write_bytes, write_json
from segcore.text import printable

FORMAT_VERSION = 1  # to be changed with the content of the files, so that old ones are made anew
LOG_NAME, CONFIG_NAME, PROBLEMS_NAME = "converted.jsonl", "data.yaml", "problems.txt"
CONFIG_SPLITS = {"train": "TRAIN", "val": "TEST"}


@dataclass
class Conversion:
    """What a conversion did.

    Attributes:
        num_photos: photos of each split.
        num_reused: photos that an earlier run had converted.
        num_segments: segments of each category id.
        num_crowds: segments that are crowds.
        num_decided, num_labeled: pixels that the order of painting decided, and all with a segment.
        left_out: counts of what has no segment, by reason.
        problems: files that were left out.
    """

    num_photos: dict[str, int] = field(default_factory=dict)
    num_reused: int = 0
    num_segments: Counter[int] = field(default_factory=Counter)
    num_crowds: int = 0
    num_decided: int = 0
    num_labeled: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)


def convert(
    splits: Mapping[str, Sequence[AnnotatedPhoto]],
    categories: list[Category],
    images: Path,
    output: Path,
    *,
    components: bool = False,
    problems: Sequence[Problem] = (),
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
) -> Conversion:
    """Write a data set in COCO panoptic format, with the photos where they are.

    Args:
        splits: name -> photos.
        images: folder of the photos.
        output: a folder that does not exist, is empty, or is of an earlier conversion.
        components: see :func:`segcore.data.convert.painting.paint`.
        problems: files that could not be listed.

    Raises:
        OutputError: ``output`` has other files in it, or cannot be written.
    """
    _require_output(output)
    with locked(output / LOG_NAME):
        remove_partial_files(output)
        done = _read_log(output / LOG_NAME)
        options = (FORMAT_VERSION, sorted(map(json.dumps, categories)), components)
        work = _Work(images, output, thing_category_ids(categories), components, max_pixels)
        result, entries = Conversion(problems=list(problems)), []
        tasks = [
            _Task(split, photo, work.fingerprint(split, photo, options))
            for split, photos in splits.items()
            for photo in _distinct(split, photos, result.problems)
        ]
        with open(output / LOG_NAME, "ab") as log:
            for task, outcome in work.run_all(tasks, done, progress):
                if isinstance(outcome, Problem):
                    result.problems.append(outcome)
                    continue
                if outcome is done.get(task.fingerprint):
                    result.num_reused += 1
                else:
                    log.write(json.dumps(outcome).encode() + b"\n")
                    log.flush()
                entries.append(outcome)
        _write_results(entries, categories, images, output, result)
        _remove_stale(done, entries, output)
    return result


def _require_output(output: Path) -> None:
    try:
        if output.is_dir() and any(output.iterdir()) and not (output / LOG_NAME).is_file():
            raise OutputError(
                f"{printable(output)}: has files of another origin in it: name another folder "
                "(--output)"
            )
        output.mkdir(parents=True, exist_ok=True)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{printable(output)}: cannot be written: {error.strerror}") from error


def _read_log(path: Path) -> dict[str, dict]:
    """Return fingerprint -> entry; a line that a killed run left unfinished is passed over."""
    entries = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
            is_inside = entry["split"].isidentifier() and file_name_fault(entry["png"]) is None
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if is_inside:
            entries[entry["fingerprint"]] = entry
    return entries


def _distinct(
    split: str, photos: Sequence[AnnotatedPhoto], problems: list[Problem]
) -> Iterator[AnnotatedPhoto]:
    """Yield the photos whose panoptic PNGs, and results of evaluation, have names of their own."""
    owners: dict[str, str] = {}
    for photo in photos:
        key = os.path.splitext(photo.file_name)[0]
        key = PurePath(key).name if CONFIG_SPLITS.get(split) == "TEST" else key
        owner = owners.get(key)
        if owner is None:
            owners[key] = photo.file_name
            yield photo
            continue
        fault = "is annotated twice"
        if owner != photo.file_name:
            fault = f"has the name of {printable(owner)} but for folder or suffix: rename one"
        problems.append(Problem("same photo or name", photo.file_name, f"{fault} ({split})"))


@dataclass(frozen=True)
class _Task:
    split: str
    photo: AnnotatedPhoto
    fingerprint: str


@dataclass(frozen=True)
class _Work:
    images: Path
    output: Path
    thing_ids: set[int]
    components: bool
    max_pixels: int

    def fingerprint(self, split: str, photo: AnnotatedPhoto, options: tuple) -> str:
        """Return digits that change with the options and with every file of a photo."""
        states = []
        for path in (self.images / photo.file_name, *photo.files):
            try:
                stat = path.stat()
                states.append((str(path), stat.st_size, stat.st_mtime_ns))
            except OSError:
                states.append((str(path), None, None))
        return hashlib.sha256(repr((options, split, states)).encode()).hexdigest()[:32]

    def run_all(
        self, tasks: list[_Task], done: dict[str, dict], progress: bool
    ) -> Iterator[tuple[_Task, dict | Problem]]:
        def run(task: _Task) -> dict | Problem:
            entry = done.get(task.fingerprint)
            if entry and (self.output / task.split / "panoptic" / entry["png"]).is_file():
                return entry
            return self.run(task)

        with ThreadPoolExecutor(num_workers([])) as pool:
            outcomes = pool.map(run, tasks)
            bar = tqdm(outcomes, "Converting", len(tasks), unit="photo", disable=not progress)
            yield from zip(tasks, bar, strict=True)

    def run(self, task: _Task) -> dict | Problem:
        """Write the PNG of a photo and return its entry in the log; or say why there is none."""
        photo = task.photo
        try:
            # Decoded, as a photo that breaks off would stop a training.
            width, height = load_image(self.images / photo.file_name, self.max_pixels).size
            panoptic = paint(
                photo.read((height, width)),
                (height, width),
                self.thing_ids,
                components=self.components,
            )
        except DataError as error:
            path = str(photo.files[0])
            return Problem(
                "not converted", photo.file_name, str(error).removeprefix(f"{printable(path)}: ")
            )
        png = os.path.splitext(photo.file_name)[0] + ".png"
        write_bytes(encode_png(id2rgb(panoptic.ids)), self.output / task.split / "panoptic" / png)
        return {
            "fingerprint": task.fingerprint,
            "split": task.split,
            "file_name": photo.file_name,
            "height": height,
            "width": width,
            "png": png,
            "segments_info": panoptic.segments,
            "num_decided": panoptic.num_decided,
            "left_out": dict(panoptic.left_out),
        }


def _write_results(
    entries: list[dict],
    categories: list[Category],
    images: Path,
    output: Path,
    result: Conversion,
) -> None:
    """Write the JSONs, the config and the log without what is outdated; count into ``result``."""
    by_split: dict[str, list[dict]] = {}
    for entry in entries:
        by_split.setdefault(entry["split"], []).append(entry)
        result.num_decided += entry["num_decided"]
        result.left_out.update(entry["left_out"])
        for segment in entry["segments_info"]:
            result.num_segments[segment["category_id"]] += 1
            result.num_crowds += segment["iscrowd"]
            result.num_labeled += segment["area"]
    for split, members in by_split.items():
        result.num_photos[split] = len(members)
        content = {"images": [], "annotations": [], "categories": categories}
        for image_id, entry in enumerate(members, start=1):
            photo = {key: entry[key] for key in ("file_name", "height", "width")}
            content["images"].append({"id": image_id, **photo})
            content["annotations"].append(
                {
                    "image_id": image_id,
                    "file_name": entry["png"],
                    "segments_info": entry["segments_info"],
                }
            )
        write_json(content, output / split / "panoptic.json")
    if CONFIG_SPLITS.keys() & by_split.keys():
        write_bytes(_config(by_split, images, output).encode(), output / CONFIG_NAME)
    log = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    write_bytes(log, output / LOG_NAME)
    problems = output / PROBLEMS_NAME
    if result.problems:
        lines = (f"{problem.kind}: {problem}\n" for problem in result.problems)
        write_bytes("".join(lines).encode(errors="backslashreplace"), problems)
    else:
        problems.unlink(missing_ok=True)


def _config(splits: Mapping[str, object], images: Path, output: Path) -> str:
    """Return the part of a config that names the data. A text of JSON is one of YAML."""
    lines = [
        "# Made by segcore.data.convert: to be named in the _BASE_ of a config, as the last.",
        "DATASETS:",
        "  PANOPTIC:",
    ]
    for split in splits:
        if split in CONFIG_SPLITS:
            folder = output / split
            lines += [
                f"    {CONFIG_SPLITS[split]}:",
                f"      IMAGES: {_quoted(images)}",
                f"      JSON: {_quoted(folder / 'panoptic.json')}",
                f"      PNGS: {_quoted(folder / 'panoptic')}",
            ]
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    return json.dumps(str(path.resolve()), ensure_ascii=False)


def _remove_stale(done: dict[str, dict], entries: list[dict], output: Path) -> None:
    """Remove PNGs and JSONs of an earlier run that this one did not make."""
    present = {(entry["split"], entry["png"]) for entry in entries}
    for entry in done.values():
        if (entry["split"], entry["png"]) not in present:
            (output / entry["split"] / "panoptic" / entry["png"]).unlink(missing_ok=True)
    splits = {entry["split"] for entry in entries}
    for split in {entry["split"] for entry in done.values()} - splits:
        (output / split / "panoptic.json").unlink(missing_ok=True)
