"""Prediction by models of videos: files, or folders of frames."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from tabulate import tabulate

from segcore.data.images import read_image
from segcore.data.panoptic_format import Category
from segcore.demo.batch import reason
from segcore.demo.names import free_stem
from segcore.demo.photos import find_photos
from segcore.errors import DataError
from segcore.files import write_json
from segcore.inference.run_lengths import mask_areas
from segcore.predictor import Predictor
from segcore.program import explain
from segcore.text import printable
from segcore.video import VideoReader, VideoWriter
from segcore.visualization import draw_instances
from segcore.visualization.colors import segment_colors

FOLDER_RATE = 10  # frames a second of a folder of frames
TRACKS_FILE = "tracks.json"
OVERLAY_FOLDER = "overlay"
GREY = 128.0  # what the colors of tracks have to differ from


class FrameFolder:
    """The frames (H, W, 3) uint8 RGB of a folder of pictures, by name."""

    rate = FOLDER_RATE

    def __init__(self, folder: Path, max_pixels: int):
        self.files = find_photos([folder])
        self.max_pixels = max_pixels
        if not self.files:
            raise DataError(f"no frames in {printable(folder)}")

    def __iter__(self) -> Iterator[np.ndarray]:
        return (read_image(file, "RGB", self.max_pixels) for file in self.files)


def open_video(path: Path, max_pixels: int) -> VideoReader | FrameFolder:
    """Return the frames of a video file, or of a folder of pictures."""
    return (FrameFolder if path.is_dir() else VideoReader)(path, max_pixels)


def predict_videos(
    predictor: Predictor, paths: Sequence[Path], output: Path, threshold: float
) -> int:
    """Write ``overlay/<name>.mp4`` of each video and the tracks of all to ``tracks.json``.

    An error of one video is a line on standard error.

    Args:
        threshold: least score of a track.

    Returns:
        The number of videos that failed.
    """
    results, failed, names = [], 0, set()
    try:
        for path in paths:
            name = free_stem(path, names)
            names.add(name)
            overlay = output / OVERLAY_FOLDER / f"{name}.mp4"
            try:
                tracks = _predict_video(predictor, path, overlay, threshold)
            except Exception as error:
                if explain(error) is None:
                    raise
                failed += 1
                print(f"failed: {reason(path, error)}", file=sys.stderr)
                continue
            results.append(tracks)
            print(f"\n{printable(path)}\n{_table(tracks['tracks'])}")
    finally:
        write_json(results, output / TRACKS_FILE)
    print(f"\n{len(results)} of {len(paths)} videos done, results in {printable(output)}")
    return failed


def _predict_video(
    predictor: Predictor, path: Path, overlay: Path, threshold: float
) -> dict[str, Any]:
    frames = open_video(path, predictor.cfg.INPUT.MAX_PIXELS)
    result = predict_frames(predictor, frames)
    with VideoWriter(overlay, frames.rate) as writer:
        for drawing in draw_tracks(frames, result, predictor.categories, threshold):
            writer.write(drawing)
    rows = zip(
        result["pred_labels"], result["pred_scores"], result["pred_masks"].run_lengths, strict=True
    )
    tracks = [
        {
            "category": predictor.categories[label]["name"],
            "category_id": predictor.categories[label]["id"],
            "score": score,
            "num_frames": int(np.count_nonzero(mask_areas(run_lengths))),
            "segmentations": [
                {"size": list(frame["size"]), "counts": frame["counts"].decode("ascii")}
                for frame in run_lengths
            ],
        }
        for label, score, run_lengths in rows
        if score >= threshold
    ]
    return {"file_name": str(path), "tracks": tracks}


def predict_frames(predictor: Predictor, frames: Iterable[np.ndarray]) -> dict[str, Any]:
    """Return the tracks of frames (H, W, 3) uint8 RGB, see :meth:`Predictor.predict_video`."""
    return predictor.predict_video(np.ascontiguousarray(frame[:, :, ::-1]) for frame in frames)


def draw_tracks(
    frames: Iterable[np.ndarray],
    result: Mapping[str, Any],
    categories: Sequence[Category],
    threshold: float,
    scale: float = 1.0,
) -> Iterator[np.ndarray]:
    """Draw tracks over frames (H, W, 3) uint8 RGB, each in one color.

    Args:
        result: of :meth:`Predictor.predict_video`.
        threshold: least score of a track.
        scale: size of the drawings relative to the frames.
    """
    rows = [row for row, score in enumerate(result["pred_scores"]) if score >= threshold]
    labels = [result["pred_labels"][row] for row in rows]
    colors = segment_colors(
        [categories[label]["color"] for label in labels],
        [True] * len(rows),
        np.full((len(rows), 3), GREY),
    )
    for number, frame in enumerate(frames):
        instances = Instances(frame.shape[:2])
        instances.pred_classes = torch.tensor(labels, dtype=torch.int64)
        instances.scores = torch.tensor([result["pred_scores"][row] for row in rows])
        instances.pred_masks_rle = [result["pred_masks"].run_lengths[row][number] for row in rows]
        yield draw_instances(frame, instances, categories, scale, colors)


def _table(tracks: Sequence[dict[str, Any]]) -> str:
    """Class, score and number of frames in which it is seen, of each track."""
    rows = [(printable(t["category"]), f"{t['score']:.2f}", t["num_frames"]) for t in tracks]
    return tabulate(rows, headers=["class", "score", "frames"], disable_numparse=[0, 1])
