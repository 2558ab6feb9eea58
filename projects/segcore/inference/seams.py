"""Joining of the segments that the tiles of a large image share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
import scipy
import torch
from detectron2.structures import Boxes, Instances

from segcore.inference.run_lengths import mask_areas
from segcore.inference.segments import PanopticResult
from segcore.inference.tiles import Tile
from segcore.inference.windows import Size, Window, row_windows

# Least IoU in the shared strip: above a half, a segment has one partner at the most.
MATCH_IOU = 0.5
_PIXELS = 1 << 20  # of a map that are worked on at a time


class PanopticSeams:
    """A panoptic map that grows tile by tile.

    Stuff is one segment a class. Things of two tiles are one segment if their class is the same and
    the IoU inside of the strip that both tiles see exceeds :data:`MATCH_IOU`. The seam runs along
    the middle of the strip; pixels without a segment take that of the other tile. The score of a
    segment is the mean of those of its parts, weighted by their areas.

    Args:
        size: (H, W) of the image.
    """

    def __init__(self, size: Size):
        self._map = np.zeros(size, np.int32)  # numbers of parts, 0 for none
        self._parts: list[dict[str, Any]] = []
        self._areas: list[int] = []
        self._owner = np.zeros(1, np.int64)  # number of the first part of the same segment
        self._stuff: dict[int, int] = {}

    def add(self, tile: Tile, ids: np.ndarray, segments: Sequence[dict[str, Any]]) -> None:
        """Add the panoptic map (h, w) of a tile; tiles come row by row."""
        first = len(self._parts) + 1
        numbers = np.arange(first, first + len(segments))
        table = np.zeros(max((s["id"] for s in segments), default=0) + 1, np.int32)
        table[[segment["id"] for segment in segments]] = numbers
        local, target = table[ids], self._map[tile.window]
        self._parts += segments
        self._areas += np.bincount(local.ravel(), minlength=first + len(segments))[first:].tolist()
        self._owner = np.concatenate((self._owner, numbers))
        for number, segment in zip(numbers.tolist(), segments, strict=True):
            if not segment["isthing"]:
                self._join(self._stuff.setdefault(segment["category_id"], number), number)
        for strip in tile.strips():
            for before, now in _matches(self._owner[target[strip]], local[strip]):
                if self._same_thing(before, now):
                    self._join(before, now)
        seen = (target != 0) & ((local == 0) | tile.near_earlier())
        np.copyto(target, local, where=~seen)

    def finish(self) -> PanopticResult:
        """Return the map (H, W) int32 of ids 1, 2, ... and its segments, see :class:`ResultMaker`.

        Segments of which no pixel is left are dropped.
        """
        present = np.zeros(len(self._owner), bool)
        for window in row_windows(self._map.shape, _PIXELS):
            present[self._owner[self._map[window]]] = True
        present[0] = False
        ids = (np.cumsum(present) * present).astype(np.int32)[self._owner]
        for window in row_windows(self._map.shape, _PIXELS):
            self._map[window] = ids[self._map[window]]
        areas = np.array([0, *self._areas], float)
        total = np.bincount(self._owner, areas)
        segments = []
        for id, number in enumerate(np.flatnonzero(present).tolist(), start=1):
            segment = {**self._parts[number - 1], "id": id}
            if "score" in segment:
                of_segment = np.flatnonzero(self._owner == number)
                scores = [self._parts[part - 1]["score"] for part in of_segment.tolist()]
                segment["score"] = float(areas[of_segment] @ scores / total[number])
            segments.append(segment)
        return torch.from_numpy(self._map), segments

    def _same_thing(self, first: int, second: int) -> bool:
        first, second = self._parts[first - 1], self._parts[second - 1]
        return first["isthing"] and first["category_id"] == second["category_id"]

    def _join(self, first: int, second: int) -> None:
        owners = self._owner[[first, second]]
        self._owner[np.isin(self._owner, owners)] = owners.min()


class _Piece(NamedTuple):
    """The part of an instance that one tile sees."""

    label: int
    score: float
    mask: dict[str, Any]  # run lengths in the tile

    def inside(self, strip: Window) -> dict[str, Any]:
        pixels = mask_util.decode(self.mask)[strip]
        return mask_util.encode(np.asfortranarray(pixels))


class InstanceSeams:
    """Instances that are gathered tile by tile.

    Those of neighboring tiles with the same class are matched one to one, by the IoU of their masks
    inside of the strip that both tiles see, which must exceed :data:`MATCH_IOU`. The mask is
    the union, the score the mean of the scores, weighted by areas; boxes are tight.

    Args:
        size: (H, W) of the image.
    """

    def __init__(self, size: Size):
        self._size = size
        self._pieces: list[_Piece] = []
        self._tiles: list[Tile] = []  # of each piece
        self._owner = np.zeros(0, np.int64)
        self._by_place: dict[tuple[int, int], range] = {}

    def add(self, tile: Tile, instances: Instances) -> None:
        """Add the instances of a tile, with ``pred_masks_rle``; tiles come row by row."""
        first = len(self._pieces)
        rows = zip(
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
            instances.pred_masks_rle,
            strict=True,
        )
        pieces = [_Piece(*row) for row in rows]
        here = self._by_place[tile.row, tile.column] = range(first, first + len(pieces))
        self._pieces += pieces
        self._tiles += [tile] * len(pieces)
        self._owner = np.concatenate((self._owner, np.arange(here.start, here.stop)))
        (height, width), (shared_rows, shared_columns) = tile.window.size, tile.shared
        if tile.row:
            above = Window(slice(height - shared_rows, height), slice(0, width))
            below = Window(slice(0, shared_rows), slice(0, width))
            self._match(self._by_place[tile.row - 1, tile.column], above, here, below)
        if tile.column:
            left = Window(slice(0, height), slice(width - shared_columns, width))
            right = Window(slice(0, height), slice(0, shared_columns))
            self._match(self._by_place[tile.row, tile.column - 1], left, here, right)

    def finish(self) -> Instances:
        """Return the instances by falling score, with ``pred_masks_rle`` of the image."""
        groups = [np.flatnonzero(self._owner == owner) for owner in np.unique(self._owner)]
        areas = mask_areas(piece.mask for piece in self._pieces)
        scores, labels, masks = [], [], []
        for group in groups:
            pieces = [self._pieces[index] for index in group]
            weights = np.maximum(areas[group], 1).astype(float)
            scores.append(float(np.average([piece.score for piece in pieces], weights=weights)))
            labels.append(pieces[0].label)
            masks.append(self._union(group))
        scores = torch.tensor(scores, dtype=torch.float32)
        scores, order = scores.sort(descending=True, stable=True)
        masks = [masks[index] for index in order.tolist()]
        boxes = mask_util.toBbox(masks).reshape(-1, 4) if masks else np.zeros((0, 4))
        boxes[:, 2:] += boxes[:, :2]
        return Instances(
            self._size,
            scores=scores,
            pred_classes=torch.tensor(labels, dtype=torch.int64)[order],
            pred_boxes=Boxes(torch.from_numpy(boxes).float()),
            pred_masks_rle=masks,
        )

    def _match(self, before: range, strip_before: Window, now: range, strip_now: Window) -> None:
        """Join the same objects of two tiles that see the same strip."""
        if not (before and now):
            return
        first = [self._pieces[index].inside(strip_before) for index in before]
        second = [self._pieces[index].inside(strip_now) for index in now]
        ious = mask_util.iou(first, second, [0] * len(second))
        labels = [
            np.array([self._pieces[index].label for index in indices]) for indices in (before, now)
        ]
        ious *= labels[0][:, None] == labels[1]
        for row, column in zip(
            *scipy.optimize.linear_sum_assignment(ious, maximize=True), strict=True
        ):
            if ious[row, column] > MATCH_IOU:
                owners = self._owner[[before[row], now[column]]]
                self._owner[np.isin(self._owner, owners)] = owners.min()

    def _union(self, group: np.ndarray) -> dict[str, Any]:
        """Return the run lengths in the image of the union of some pieces."""
        masks = [self._pieces[index].mask for index in group]
        windows = [self._tiles[index].window for index in group]
        corners = np.array([(window.rows.start, window.columns.start) for window in windows])
        boxes = mask_util.toBbox(masks).astype(int)
        starts = boxes[:, 1::-1] + corners  # row and column in the image
        sizes = boxes[:, :1:-1]
        corner = starts.min(axis=0)
        pixels = np.zeros((starts + sizes).max(axis=0) - corner, np.uint8)
        for mask, (x, y, width, height), (top, left) in zip(
            masks, boxes, starts - corner, strict=True
        ):
            inside = mask_util.decode(mask)[y : y + height, x : x + width]
            pixels[top : top + height, left : left + width] |= inside
        return _encode_part(pixels, tuple(corner), self._size)


def _matches(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of numbers above 0 whose IoU in two maps exceeds :data:`MATCH_IOU`."""
    pairs, common = np.unique(first.astype(np.int64) << 32 | second, return_counts=True)
    numbers = np.stack((pairs >> 32, pairs & 0xFFFFFFFF))
    areas = np.zeros_like(numbers)
    for row, values in enumerate(numbers):
        _, inverse = np.unique(values, return_inverse=True)
        areas[row] = np.bincount(inverse, common)[inverse]
    matched = (numbers > 0).all(0) & (common > MATCH_IOU * (areas.sum(0) - common))
    return list(zip(*numbers[:, matched].tolist(), strict=True))


def _encode_part(pixels: np.ndarray, corner: tuple[int, int], size: Size) -> dict[str, Any]:
    """Return the run lengths of an image of ``size`` with a mask at ``corner``, zeros elsewhere."""
    (top, left), (height, width) = corner, size
    columns = np.pad(pixels.T, ((0, 0), (1, 1)))
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    positions, repeats = np.unique((column + left) * height + row + top, return_counts=True)
    positions = positions[repeats == 1]  # a run that goes on in the next column does not end
    counts = np.diff(positions, prepend=0, append=height * width)
    return mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
