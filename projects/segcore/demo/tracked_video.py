"""Prediction on one video, frame by frame, by a model of photos, with segments linked to tracks."""

import math
import operator
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from segcore.data.images import encode_image
from segcore.data.panoptic_format import Category
from segcore.demo.film import FilmPart, PartialFilm
from segcore.demo.panoptic import panoptic_of
from segcore.demo.results import encode_ids
from segcore.errors import DataError, ImageError
from segcore.files import write_bytes
from segcore.text import printable
from segcore.tracking import SegmentTracker
from segcore.video import Camera, TimedFrame, VideoReader
from segcore.visualization import SegmentMap, draw_panoptic
from segcore.visualization.colors import id_colors
from segcore.visualization.labels import drawable_name

PART_SECONDS = 30.0  # of work, which a process that is killed loses at most

Predict = Callable[[np.ndarray], dict[str, Any]]


class FramePredictor:
    """Prediction, tracking and drawing of the frames of a video, in order.

    Args:
        predict: takes a frame (H, W, 3) uint8 BGR and returns the compact result.
        categories: see ``segcore.visualization.categories_of``.
        score_threshold: least score of instances.
        png_folder: folder of panoptic PNGs, one a frame; None: none are written.
    """

    def __init__(
        self,
        predict: Predict,
        categories: Sequence[Category],
        score_threshold: float,
        png_folder: Path | None,
    ):
        self.predict = predict
        self.categories = categories
        self.score_threshold = score_threshold
        self.png_folder = png_folder
        self.tracker = SegmentTracker()

    def __call__(self, frame: TimedFrame) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the drawing (H, W, 3) uint8 RGB and the record of the next frame."""
        result = self.predict(np.ascontiguousarray(frame.pixels[:, :, ::-1]))
        ids, segments = self.tracker.update(*panoptic_of(result, self.score_threshold))
        segment_map = SegmentMap.from_ids(ids.numpy(), [segment["id"] for segment in segments])
        if self.png_folder is not None:
            picture = encode_image(encode_ids(ids.numpy()), "PNG")
            write_bytes(picture, self.png_folder / f"{frame.number:06d}.png")
        return self._drawing(frame.pixels, segment_map, segments), {
            "frame": frame.number,
            "time": round(frame.time, 6),
            "segments": self._records(segment_map, segments),
        }

    def _drawing(
        self, pixels: np.ndarray, segment_map: SegmentMap, segments: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        """Draw stuff in the color of its class, things in that of their id."""
        shown = [self.categories[segment["category_id"]] for segment in segments]
        are_things = np.array([segment["isthing"] for segment in segments], bool)
        class_colors = np.array([c["color"] for c in shown], np.uint8).reshape(-1, 3)
        colors = id_colors([segment["id"] for segment in segments])
        names = [
            drawable_name(category) + (f" {segment['id']}" if segment["isthing"] else "")
            for category, segment in zip(shown, segments, strict=True)
        ]
        return draw_panoptic(
            pixels,
            segment_map,
            segments,
            self.categories,
            colors=np.where(are_things[:, None], colors, class_colors),
            names=names,
        )

    def _records(
        self, segment_map: SegmentMap, segments: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        records = []
        for segment, extent in zip(segments, segment_map.extents, strict=True):
            category = self.categories[segment["category_id"]]
            record = {
                "id": segment["id"],
                "category_id": category["id"],
                "category": category["name"],
                "isthing": bool(segment["isthing"]),
                "area": extent.area,
                "bbox": list(extent.box),
            }
            if "score" in segment:
                record["score"] = round(float(segment["score"]), 4)
            records.append(record)
        return records


def write_parts(
    source: VideoReader | Camera, film: PartialFilm, predictor: FramePredictor, every: int
) -> tuple[ImageError | None, int | None]:
    """Predict the frames of a video from where the film ends, until its end or a signal.

    Args:
        source: the video.
        film: gets the results.
        predictor: one without frames; goes on with the tracks of the film.
        every: predict each so-manyth frame.

    Returns:
        The error and the signal that ended the video early, None without.

    Raises:
        ImageError: there is no frame.
        DataError: the film is damaged.
    """
    first = 0
    if film.state is not None:
        first = restored_frame(film, predictor.tracker, source.max_pixels)
    errors: list[ImageError] = []
    progress = tqdm(
        _until_error(source.frames(first, every), errors),
        desc=film.folder.name,
        total=source.num_frames and math.ceil(source.num_frames / every),
        initial=first // every,
        unit="frame",
        disable=None,  # on terminals only
    )
    with progress, _held_signals() as received:
        frames, ended = iter(progress), False
        while not (ended or received):
            with film.part(source.rate / every) as part:
                ended = _fill(part, frames, predictor, every, received)
    if errors and film.state is None:
        raise errors[0]
    return (errors or [None])[0], (received or [None])[0]


def _fill(
    part: FilmPart,
    frames: Iterator[TimedFrame],
    predictor: FramePredictor,
    every: int,
    received: list[int],
) -> bool:
    """Write frames into a part for some time, or until a signal; return whether all are written."""
    end, frame, ended = time.monotonic() + PART_SECONDS, None, True
    for frame in frames:
        part.add(frame.time, *predictor(frame))
        if received or time.monotonic() >= end:
            ended = False
            break
    if frame is not None:
        state = predictor.tracker.state_dict()
        part.state = {"next_frame": frame.number + every, "tracker": state}
    return ended


def restored_frame(film: PartialFilm, tracker: SegmentTracker, max_pixels: int) -> int:
    """Put the tracker where the film ends; return the number of the next frame."""
    state = film.state
    try:
        for track in state["tracker"]["things"]:
            height, width = track["mask"]["size"]
            if not (height > 0 and width > 0 and height * width <= max_pixels):
                raise ValueError(f"masks of {height} x {width} pixels")
        tracker.load_state_dict(state["tracker"])
        next_frame = operator.index(state["next_frame"])
        if next_frame < 0:
            raise ValueError(f"next frame {next_frame}")
        return next_frame
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(
            f"{printable(film.folder)}: is damaged, remove it: {printable(error)}"
        ) from error


def _until_error(frames: Iterator[TimedFrame], errors: list[ImageError]) -> Iterator[TimedFrame]:
    """Yield the frames before the error of a video, which is appended to ``errors``."""
    try:
        yield from frames
    except ImageError as error:
        errors.append(error)


@contextmanager
def _held_signals() -> Iterator[list[int]]:
    """Yield a list that gets the first SIGINT, SIGTERM or SIGHUP; a second acts at once."""
    received: list[int] = []

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, _: object) -> None:
        received.append(number)
        restore()

    previous = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield received
    finally:
        restore()
