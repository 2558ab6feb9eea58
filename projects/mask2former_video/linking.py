"""Tracks of a long video, from the predictions of overlapping clips.

Memory does not depend on the length of the video: the masks of one clip are held, and of frames
before it the run lengths of the tracks that may come into the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former_video.tracks import EncodeMasks, RunLengths, TrackMasks, best_pairs
from segcore.functional import at_least_float32
from segcore.matching import assign

# Logit of a mask in a frame where its track is not seen.
ABSENT = -100.0
# Candidates are the tracks of this many times the pairs that are wanted.
CANDIDATE_FACTOR = 5
CLASS_WEIGHT = 0.5
# Clips that a track may miss before it is over.
MAX_MISSED_CLIPS = 1


@dataclass
class Track:
    """What is known of a track besides the masks of the present clip.

    Attributes:
        start: first frame in which it was seen.
        probabilities: (K,) mean over the frames of its clips, without "no object".
        weight: number of those frames, shared ones counted twice.
        last_mask: (h, w) logits in the last frame of the last clip that saw it.
        missed: number of clips in a row that have not seen it.
        encoded: frame -> run lengths, of frames before the present clip.
    """

    start: int
    probabilities: Tensor
    weight: int
    last_mask: Tensor
    missed: int = 0
    encoded: dict[int, RunLengths] = field(default_factory=dict)

    def add(self, probabilities: Tensor, masks: Tensor) -> None:
        """Add the class probabilities (K,) and mask logits (T, h, w) of a clip's query."""
        self.missed = 0
        self.last_mask = masks[-1]
        self.weight += len(masks)
        self.probabilities = self.probabilities.lerp(probabilities, len(masks) / self.weight)


class ClipLinker:
    """Linker of the queries of each clip to the tracks of the clips before.

    A pair of track and query is rated by the soft IoU of their masks in the frames that the clips
    share, plus half the product of their class probabilities; the pairs are one-to-one. A query
    without partner starts a track. A track without partner rests, and may return in the next clip
    with its last mask. Logits in shared frames are averaged; so are class probabilities, weighted
    by frames. One clip gives the tracks of its queries as they are.

    Args:
        encode: makes run lengths of mask logits (n, T, h, w), a list of T for each mask.
        topk: number of pairs of track and class in the result.
        threshold: least soft IoU of a pair.
    """

    def __init__(self, encode: EncodeMasks, *, topk: int, threshold: float):
        self.encode = encode
        self.topk = topk
        self.threshold = threshold
        self.tracks: list[Track] = []  # row i of the masks is that of track i
        self.finished: list[Track] = []
        self.masks: Tensor | None = None  # (tracks, T, h, w) logits in the frames from start on
        self.clips_seen: Tensor | None = None  # (T,) number of clips that had a frame
        self.start = 0

    @torch.no_grad()
    def add(self, start: int, class_logits: Tensor, masks: Tensor) -> None:
        """Add the next clip.

        Args:
            start: its first frame, which the clip before has, too.
            class_logits: (Q, K+1), the last is "no object".
            masks: logits (Q, T, h, w).
        """
        probabilities = at_least_float32(class_logits).softmax(-1)[:, :-1]
        if self.masks is None:
            self.start = start
            self.masks = masks
            self.clips_seen = masks.new_ones(masks.shape[1])
            self.tracks = _new_tracks(start, probabilities, masks)
            return
        stop = self.start + self.masks.shape[1]
        if not self.start < start < stop:
            raise ValueError(
                f"start: expected a frame of the clip before, {self.start + 1} to {stop - 1}, "
                f"got {start}"
            )
        candidates = self._encode_until(start)
        rows, queries = self._pairs(probabilities, masks)
        self._extend(rows, queries, masks)
        self._update_tracks(rows, queries, probabilities, masks, candidates)

    def finish(self) -> dict[str, Any]:
        """Return the tracks of the video.

        Returns:
            "pred_scores", "pred_labels" (lists), "pred_masks" (:class:`TrackMasks`), by descending
            score; "pred_missing_frames": of each track the number of frames before it became a
            candidate, in which its masks were not kept and are empty.
        """
        tracks = [*self.tracks, *self.finished]
        probabilities = torch.stack([track.probabilities for track in tracks])
        scores, indices, labels = best_pairs(probabilities, self.topk)
        chosen = [tracks[index] for index in indices.tolist()]
        rows = sorted({index for index in indices.tolist() if index < len(self.tracks)})
        num_frames = self.start + self.masks.shape[1]
        self._encode(rows, self.masks.shape[1])
        absent = self.encode(self.masks.new_full((1, 1, *self.masks.shape[2:]), ABSENT))[0][0]
        return {
            "pred_scores": scores.tolist(),
            "pred_labels": labels.tolist(),
            "pred_masks": TrackMasks(
                [[t.encoded.get(frame, absent) for frame in range(num_frames)] for t in chosen]
            ),
            "pred_missing_frames": [max(t.encoded) + 1 - t.start - len(t.encoded) for t in chosen],
        }

    def _encode_until(self, start: int) -> set[int]:
        """Encode the frames before ``start`` of candidates, forget them; return the candidates."""
        tracks = [*self.tracks, *self.finished]
        probabilities = torch.stack([track.probabilities for track in tracks])
        _, indices, _ = best_pairs(probabilities, CANDIDATE_FACTOR * self.topk)
        candidates = {id(tracks[index]) for index in indices.tolist()}
        self.finished = [track for track in self.finished if id(track) in candidates]
        num_frames = start - self.start
        rows = [row for row, track in enumerate(self.tracks) if id(track) in candidates]
        self._encode(rows, num_frames)
        self.masks = self.masks[:, num_frames:]
        self.clips_seen = self.clips_seen[num_frames:]
        self.start = start
        return candidates

    def _encode(self, rows: Sequence[int], num_frames: int) -> None:
        """Encode the first frames that are held of some tracks."""
        encoded = self.encode(self.masks[list(rows), :num_frames]) if rows else []
        for row, run_lengths in zip(rows, encoded, strict=True):
            self.tracks[row].encoded.update(enumerate(run_lengths, start=self.start))

    def _pairs(self, probabilities: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Match tracks with queries by the frames that are held: rows of both, (pairs,) each."""
        resting = [row for row, track in enumerate(self.tracks) if track.missed]
        references = self.masks
        if resting:
            references = references.clone()
            references[resting] = torch.stack(
                [self.tracks[row].last_mask for row in resting]
            ).unsqueeze(1)
        overlaps = soft_iou(references, masks[:, : references.shape[1]])
        classes = torch.stack([track.probabilities for track in self.tracks])
        ratings = overlaps + CLASS_WEIGHT * (classes @ probabilities.T).to(overlaps.dtype)
        is_pair = overlaps >= self.threshold
        _, rows, queries = (part[0] for part in assign([[-ratings * is_pair]]))
        linked = is_pair[rows, queries]
        return rows[linked], queries[linked]

    def _extend(self, rows: Tensor, queries: Tensor, masks: Tensor) -> None:
        """Extend the masks of tracks by the frames of a clip, with a row for each new track."""
        num_shared, num_fresh = self.masks.shape[1], masks.shape[1] - self.masks.shape[1]
        seen = self.clips_seen.view(-1, 1, 1)
        shared = (self.masks[rows] * seen + masks[queries, :num_shared]) / (seen + 1)
        # Absent, until a query says something else.
        self.masks = F.pad(self.masks, (0, 0, 0, 0, 0, num_fresh), value=ABSENT)
        self.masks[rows] = torch.cat((shared, masks[queries, num_shared:]), dim=1)
        self.masks = torch.cat((self.masks, masks[_others(queries, len(masks))]))
        self.clips_seen = F.pad(self.clips_seen + 1, (0, num_fresh), value=1)

    def _update_tracks(
        self,
        rows: Tensor,
        queries: Tensor,
        probabilities: Tensor,
        masks: Tensor,
        candidates: set[int],
    ) -> None:
        """Update what is known of tracks, start new ones, and remove those that are over."""
        query_of_row = dict(zip(rows.tolist(), queries.tolist(), strict=True))
        for row, track in enumerate(self.tracks):
            if row in query_of_row:
                query = query_of_row[row]
                track.add(probabilities[query], masks[query])
            else:
                track.missed += 1
        new = _others(queries, len(masks))
        self.tracks += _new_tracks(self.start, probabilities[new], masks[new])

        over = [row for row, track in enumerate(self.tracks) if track.missed > MAX_MISSED_CLIPS]
        kept = [row for row in over if id(self.tracks[row]) in candidates]
        self._encode(kept, self.masks.shape[1])
        self.finished += [self.tracks[row] for row in kept]
        going_on = sorted(set(range(len(self.tracks))) - set(over))
        self.tracks = [self.tracks[row] for row in going_on]
        self.masks = self.masks[going_on]


def soft_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the sums of minima over the sums of maxima of mask probabilities.

    Args:
        first: logits (N, T, h, w).
        second: logits (M, T, h, w).

    Returns:
        (N, M).
    """
    first, second = (at_least_float32(masks).sigmoid().flatten(1) for masks in (first, second))
    # a + b = min + max and |a - b| = max - min.
    total = first.sum(1, keepdim=True) + second.sum(1)
    difference = torch.cdist(first, second, p=1)
    return (total - difference) / (total + difference + 2e-6)


def _new_tracks(start: int, probabilities: Tensor, masks: Tensor) -> list[Track]:
    num_frames = masks.shape[1]
    return [
        Track(start, row, num_frames, last)
        for row, last in zip(probabilities, masks[:, -1], strict=True)
    ]


def _others(indices: Tensor, size: int) -> Tensor:
    """Return the indices below ``size`` that are not among ``indices``, ascending."""
    is_other = torch.ones(size, dtype=torch.bool, device=indices.device)
    is_other[indices] = False
    return is_other.nonzero()[:, 0]
