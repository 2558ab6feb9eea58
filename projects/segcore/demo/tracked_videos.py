"""Prediction on videos by models of photos: files or a camera to films, records and PNGs."""

import json
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tabulate import tabulate

from segcore.data.json_file import read_json
from segcore.data.panoptic_format import Category
from segcore.demo.batch import reason
from segcore.demo.film import PartialFilm
from segcore.demo.names import free_stem, utf8
from segcore.demo.tracked_video import FramePredictor, Predict, write_parts
from segcore.errors import ConfigError, DataError, ImageError
from segcore.files import no_space_error, write_json
from segcore.program import explain
from segcore.text import printable
from segcore.video import Camera, VideoReader, is_camera_name, is_video_name

VIDEOS_FILE = "videos.json"
OVERLAY, FRAMES, PANOPTIC, PARTIAL = "overlay", "frames", "panoptic", "partial"  # folders


def is_video(path: str | Path) -> bool:
    """Return whether an argument of ``segcore predict`` is a video file or a camera."""
    return is_video_name(path) or is_camera_name(path)


@dataclass(frozen=True)
class TrackingOptions:
    """What is asked for.

    Attributes:
        every: predict each so-manyth frame.
        score_threshold: least score of instances.
        save_png: write a panoptic PNG of each frame.
        resume: go on with interrupted videos, and skip those that are done.
        settings: all else that the results depend on, as JSON has it.
    """

    every: int = 1
    score_threshold: float = 0.5
    save_png: bool = False
    resume: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoJob:
    """A video and its results.

    Attributes:
        path: the file, or such as webcam:0.
        name: of the results.
        film: the parts that are done.
    """

    path: Path
    name: str
    film: PartialFilm


class VideoTracking:
    """Prediction of the tracks of videos, into a folder.

    * ``overlay/<video>.mp4``: segments over the frames, things in the color of their id.
    * ``frames/<video>.jsonl``: a line for each frame: number, time in seconds, segments.
    * ``panoptic/<video>/<frame>.png``: ids of all pixels, with ``save_png``.
    * ``videos.json``: the videos that are done, with their settings and errors.
    * ``partial/<video>``: one that is not done, see :class:`PartialFilm`.

    Args:
        output: the folder.
        predict: takes a frame (H, W, 3) uint8 BGR and returns the compact result.
        categories: see ``segcore.visualization.categories_of``.
        max_pixels: refuse frames with more.
    """

    def __init__(
        self,
        output: Path,
        predict: Predict,
        categories: Sequence[Category],
        max_pixels: int,
        options: TrackingOptions,
    ):
        self.output = output
        self.predict = predict
        self.categories = categories
        self.max_pixels = max_pixels
        self.options = options
        self._entries: list[dict[str, Any]] = []  # of videos.json

    def run(self, paths: Sequence[Path]) -> int:
        """Predict videos, print a table of each, and return how many failed.

        An error of one video is a line on standard error. After SIGINT, SIGTERM or SIGHUP what is
        done is saved; for a camera, SIGINT is the end of the video.

        Raises:
            ConfigError: a video is interrupted and not to be resumed, or was begun with other
                settings; a camera is to be resumed.
            DataError: a file of an earlier run is damaged.
            OutputError: the disk is full.
        """
        jobs = self._jobs(paths)
        failed = 0
        for job in jobs:
            if self._is_done(job):
                print(f"\n{printable(job.path)}\nwas done before")
                continue
            try:
                error = self._predict(job)
            except Exception as caught:
                if explain(caught) is None or no_space_error(caught):
                    raise
                error = caught
            if error is not None:
                failed += 1
                print(f"failed: {reason(job.path, error)}", file=sys.stderr)
        done = len(jobs) - failed
        print(f"\n{done} of {len(jobs)} videos done, results in {printable(self.output)}")
        return failed

    def _jobs(self, paths: Sequence[Path]) -> list[VideoJob]:
        jobs: list[VideoJob] = []
        for path in paths:
            name = free_stem(path, {job.name for job in jobs})
            film = PartialFilm(self.output / PARTIAL / name, self._settings(path))
            if self.options.resume and is_camera_name(path):
                raise ConfigError(f"--resume: expected video files, got {path}")
            if film.exists and not self.options.resume:
                raise ConfigError(
                    f"{printable(film.folder)} is of an interrupted run: go on with --resume, or "
                    "remove it"
                )
            if film.exists:
                film.restore()
            jobs.append(VideoJob(path, name, film))
        path = self.output / VIDEOS_FILE
        if self.options.resume and path.exists():
            self._entries = _read_entries(path)
        return jobs

    def _settings(self, path: Path) -> dict[str, Any]:
        return {
            "file_name": utf8(path),
            "bytes": path.stat().st_size if path.exists() else None,
            "every": self.options.every,
            "score_threshold": self.options.score_threshold,
            "save_png": self.options.save_png,
            **self.options.settings,
        }

    def _is_done(self, job: VideoJob) -> bool:
        return {"name": job.name, "error": None, **job.film.settings} in self._entries

    def _predict(self, job: VideoJob) -> ImageError | None:
        """Write the results of a video; return the error that ended it before its end."""
        png_folder = self.output / PANOPTIC / job.name if self.options.save_png else None
        predictor = FramePredictor(
            self.predict, self.categories, self.options.score_threshold, png_folder
        )
        is_camera = is_camera_name(job.path)
        source = (Camera if is_camera else VideoReader)(job.path, self.max_pixels)
        error, number = write_parts(source, job.film, predictor, self.options.every)
        if number is not None and not (is_camera and number == signal.SIGINT):
            _leave(number)
        records = self.output / FRAMES / f"{job.name}.jsonl"
        job.film.finish(self.output / OVERLAY / f"{job.name}.mp4", records)
        entry = {"name": job.name, "error": error and str(error), **job.film.settings}
        self._entries = [other for other in self._entries if other["name"] != job.name]
        self._entries.append(entry)
        write_json({"videos": self._entries}, self.output / VIDEOS_FILE)
        print(f"\n{printable(job.path)}\n{_table(records)}")
        return error


def _read_entries(path: Path) -> list[dict[str, Any]]:
    content = read_json(path)
    entries = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and "name" in entry for entry in entries
    ):
        raise DataError(f"{printable(path)}: expected the videos of an earlier run: remove it")
    return entries


def _leave(number: int) -> NoReturn:
    """End the program as the signal would have."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _table(path: Path) -> str:
    """Return the classes of a video: number of objects and of frames in which one is seen."""
    ids, frames = defaultdict(set), Counter()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            segments = json.loads(line)["segments"]
            frames.update({segment["category"] for segment in segments})
            for segment in segments:
                ids[segment["category"]].add(segment["id"])
    names = sorted(frames, key=lambda name: (-frames[name], name))
    rows = [(printable(name), len(ids[name]), frames[name]) for name in names]
    return tabulate(rows, headers=["class", "objects", "frames"], disable_numparse=[0])
