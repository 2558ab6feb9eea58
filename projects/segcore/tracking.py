"""Ids that stay on an object, for the panoptic maps of consecutive frames of a video.

Segments are linked by the IoU of their masks in two frames and by their class, as SORT (Bewley et
al., 2016) links boxes, without its model of motion. Nothing is learned and no appearance compared:
an object that moves by nearly its size between two frames, or comes back elsewhere, gets a new id;
one that takes the place of another of its class gets the id of the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import scipy
import torch
from torch import Tensor

from segcore.data.convert.masks import run_lengths_to_rle
from segcore.errors import DataError
from segcore.evaluation.segment_overlaps import segment_overlaps
from segcore.inference.segments import PanopticResult
from segcore.visualization.segment_map import SegmentMap

MIN_IOU = 0.1  # docs/video.md: more loses objects that are fast, thin or half hidden
MEMORY = 10  # frames that an object may be hidden


@dataclass
class Track:
    """A thing that is seen, or was a few frames ago.

    Attributes:
        id: of its segments in all frames.
        category_id: contiguous class.
        last_seen: number of the last frame in which it is seen.
    """

    id: int
    category_id: int
    last_seen: int


class SegmentTracker:
    """Tracker of the segments of a video, frame by frame.

    ::

        tracker = SegmentTracker()
        for frame in frames:
            panoptic_map, segments = tracker.update(*predictor(frame)["panoptic_seg"])

    A thing continues a track of its class by the one-to-one matching with the largest sum of IoUs
    between its mask and the last mask of the track. A thing without partner starts a track; a track
    without partner rests and may return where it was last seen. All stuff of a class is one track.
    Ids are 1, 2, ... in the order of their first frames and are not used twice. Memory does not
    depend on the number of frames: a map is held of each frame in which a track was last seen, so
    ``memory`` + 1 at most.

    Args:
        min_iou: least IoU of a pair, in (0, 1].
        memory: number of frames in a row that a track may miss.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, *, min_iou: float = MIN_IOU, memory: int = MEMORY):
        if not 0 < min_iou <= 1:
            raise ValueError(f"min_iou: expected a number in (0, 1], got {min_iou}")
        if memory < 0:
            raise ValueError(f"memory: expected at least 0, got {memory}")
        self.min_iou = min_iou
        self.memory = memory
        self._frame = 0
        self._next_id = 1
        self._things: list[Track] = []
        self._stuff: dict[int, int] = {}  # id by class
        self._maps: dict[int, np.ndarray] = {}  # track ids (H, W) int32 by frame

    def update(
        self, ids: Tensor | np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> PanopticResult:
        """Add the next frame.

        Args:
            ids: (H, W) integers in [0, 2^24), ids of ``segments``; other pixels have no segment.
            segments: Detectron2's ``segments_info``: "id", "category_id" (contiguous), "isthing".

        Returns:
            The map (H, W) int32 on the CPU and the segments with the ids of their tracks, other
            pixels 0.

        Raises:
            ValueError: the map is of another shape than those before, or of another type.
        """
        ids = torch.as_tensor(ids).cpu().numpy()
        indices = SegmentMap.from_ids(ids, [segment["id"] for segment in segments]).indices
        track_of = self._matches(indices, segments)
        for index, segment in enumerate(segments):
            if index not in track_of:
                track_of[index] = self._start(segment)
        track_ids = [track_of[index] for index in range(len(segments))]
        panoptic_map = np.array([0, *track_ids], np.int32)[indices]
        self._remember(panoptic_map, set(track_ids))
        tracked = [
            {**segment, "id": number} for segment, number in zip(segments, track_ids, strict=True)
        ]
        return torch.from_numpy(panoptic_map), tracked

    def state_dict(self) -> dict[str, Any]:
        """Return what the next frames need, as JSON has it."""
        return {
            "frame": self._frame,
            "next_id": self._next_id,
            "stuff": [list(item) for item in self._stuff.items()],
            "things": [
                {**asdict(track), "mask": _encoded(self._maps[track.last_seen] == track.id)}
                for track in self._things
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the tracker with this :meth:`state_dict` was.

        Raises:
            DataError: run lengths of a mask do not fill it, or masks of a frame differ in size.
        """
        self._frame, self._next_id = state["frame"], state["next_id"]
        self._stuff = dict(state["stuff"])
        self._things, self._maps = [], {}
        for row in state["things"]:
            track, size = Track(*(row[name] for name in Track.__annotations__)), row["mask"]["size"]
            mask = mask_util.decode(run_lengths_to_rle(row["mask"], size)).view(bool)
            panoptic_map = self._maps.setdefault(track.last_seen, np.zeros_like(mask, np.int32))
            if panoptic_map.shape != mask.shape:
                raise DataError(f"expected masks of {panoptic_map.shape}, got {mask.shape}")
            panoptic_map[mask] = track.id
            self._things.append(track)

    def _matches(
        self, indices: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> dict[int, int]:
        """Return the track id of each segment, by its position, that continues a thing.

        Args:
            indices: (H, W), i + 1 at the pixels of segment i.
        """
        ious = np.zeros((len(self._things), len(segments)))
        for frame, panoptic_map in self._maps.items():
            rows = [row for row, track in enumerate(self._things) if track.last_seen == frame]
            track_ids = [self._things[row].id for row in rows]
            ious[rows] = _ious(panoptic_map, indices, track_ids, len(segments))
        classes = np.array([track.category_id for track in self._things], np.int64)
        # No thing has class -1.
        labels = [s["category_id"] if s["isthing"] else -1 for s in segments]
        ious *= (classes[:, None] == np.array(labels, np.int64)) & (ious >= self.min_iou)
        pairs = zip(*scipy.optimize.linear_sum_assignment(ious, maximize=True), strict=True)
        return {int(column): self._things[row].id for row, column in pairs if ious[row, column]}

    def _start(self, segment: Mapping[str, Any]) -> int:
        """Return the id of a segment that continues no thing."""
        label = segment["category_id"]
        if not segment["isthing"] and label in self._stuff:
            return self._stuff[label]
        number, self._next_id = self._next_id, self._next_id + 1
        if segment["isthing"]:
            self._things.append(Track(number, label, self._frame))
        else:
            self._stuff[label] = number
        return number

    def _remember(self, panoptic_map: np.ndarray, seen: set[int]) -> None:
        """Note who is seen in this frame, and forget tracks and maps that are over."""
        for track in self._things:
            if track.id in seen:
                track.last_seen = self._frame
        self._maps[self._frame] = panoptic_map
        self._things = [t for t in self._things if self._frame - t.last_seen <= self.memory]
        needed = {track.last_seen for track in self._things}
        self._maps = {frame: ids for frame, ids in self._maps.items() if frame in needed}
        self._frame += 1


def _ious(
    panoptic_map: np.ndarray, indices: np.ndarray, track_ids: Sequence[int], num_segments: int
) -> np.ndarray:
    """Return the IoUs of tracks in a map (H, W) and segments, i + 1 in ``indices`` (H, W)."""
    overlaps = segment_overlaps(panoptic_map, indices)
    joint = np.zeros((len(track_ids) + 1, num_segments + 1))  # row 0 and column 0: all others
    row_of = {number: row for row, number in enumerate(track_ids, start=1)}
    rows = [row_of.get(number, 0) for number in overlaps.truth.tolist()]
    np.add.at(joint, (rows, overlaps.prediction), overlaps.areas)
    union = joint.sum(1, keepdims=True) + joint.sum(0) - joint
    return (joint / np.maximum(union, 1))[1:, 1:]


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    """Return run lengths of a mask (H, W) bool as JSON has them."""
    run_lengths = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {**run_lengths, "counts": run_lengths["counts"].decode("ascii")}
