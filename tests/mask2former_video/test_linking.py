"""Tracks from clips: identity, absence, new tracks, memory."""

from functools import partial

import pytest
import torch

from mask2former_video.clips import overlapping_clips
from mask2former_video.linking import ClipLinker, soft_iou
from mask2former_video.tracks import TrackMasks, best_pairs, encode_frames

WIDTH, HEIGHT, SIDE = 48, 16, 6


@pytest.mark.parametrize(
    ("num_frames", "length", "overlap", "expected"),
    [
        (5, 0, 1, [(0, 5)]),
        (5, 8, 2, [(0, 5)]),
        (4, 4, 1, [(0, 4)]),
        (7, 4, 1, [(0, 4), (3, 7)]),
        (8, 4, 1, [(0, 4), (3, 7), (4, 8)]),
        (9, 4, 2, [(0, 4), (2, 6), (4, 8), (5, 9)]),
        (0, 4, 1, []),
    ],
)
def test_clips_cover_a_video(num_frames, length, overlap, expected):
    clips = list(overlapping_clips(iter(range(num_frames)), length, overlap))
    assert [(start, start + len(clip)) for start, clip in clips] == expected
    assert all(clip == list(range(start, start + len(clip))) for start, clip in clips)


class Scene:
    """Squares that move along rows of a small picture; a clip's queries are in random order."""

    def __init__(self, *paths, classes):
        self.paths, self.classes = paths, classes
        self.generator = torch.Generator().manual_seed(0)

    def masks(self, start: int, stop: int) -> torch.Tensor:
        """Logits (squares, T, h, w); a square without position is not there."""
        masks = torch.full((len(self.paths), stop - start, HEIGHT, WIDTH), -5.0)
        for row, path in enumerate(self.paths):
            for frame in range(start, stop):
                if (place := path(frame)) is not None:
                    x, y = place
                    masks[row, frame - start, y : y + SIDE, x : x + SIDE] = 5
        return masks

    def clip(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.full((len(self.paths), 4), -4.0)
        logits[torch.arange(len(self.paths)), torch.tensor(self.classes)] = 4
        masks = self.masks(start, stop)
        logits[~(masks > 0).flatten(1).any(1)] = torch.tensor([-4.0, -4, -4, 4])
        order = torch.randperm(len(self.paths), generator=self.generator)
        return logits[order], masks[order]


def link(scene: Scene, num_frames: int, length: int, overlap: int = 1, topk: int = 3) -> dict:
    encode = partial(encode_frames, sizes=[(HEIGHT, WIDTH)])
    linker = ClipLinker(encode, topk=topk, threshold=0.3)
    for start, clip in overlapping_clips(range(num_frames), length, overlap):
        linker.add(start, *scene.clip(start, start + len(clip)))
        assert linker.masks.shape[0] <= 3 * len(scene.paths) and linker.masks.shape[1] <= length
    return linker.finish()


def crossing() -> Scene:
    """Two squares of one class that cross, and one of another that stands still."""
    return Scene(lambda t: (2 + t, 2), lambda t: (40 - t, 4), lambda t: (20, 10), classes=[0, 0, 1])


@pytest.mark.parametrize(("length", "overlap"), [(0, 1), (2, 1), (6, 1), (6, 3), (40, 2)])
def test_tracks_keep_their_identity(length, overlap):
    scene, num_frames = crossing(), 30
    result = link(scene, num_frames, length or num_frames, overlap)
    expected = scene.masks(0, num_frames) > 0
    found = torch.stack(list(result["pred_masks"]))
    assert sorted(result["pred_labels"]) == [0, 0, 1]
    for mask in expected:
        assert any(torch.equal(mask, track) for track in found)
    assert result["pred_missing_frames"] == [0, 0, 0]
    assert min(result["pred_scores"]) > 0.99


def test_a_track_rests_for_a_clip_and_returns():
    hidden = range(5, 10)  # the clip 5 to 9 of length 5 and overlap 1 starts in frame 4
    scene = Scene(lambda t: None if t in hidden else (10, 3), lambda t: (30, 3), classes=[2, 1])
    result = link(scene, 13, 5, topk=2)
    assert result["pred_labels"] in ([1, 2], [2, 1])
    track = result["pred_masks"][result["pred_labels"].index(2)]
    assert track.flatten(1).any(1).tolist() == [t not in hidden for t in range(13)]


def test_a_track_that_comes_later_is_empty_before():
    scene = Scene(lambda t: (10, 3), lambda t: (30, 3) if t >= 8 else None, classes=[0, 1])
    result = link(scene, 12, 4, topk=2)
    late = result["pred_masks"][result["pred_labels"].index(1)]
    assert late.flatten(1).any(1).tolist() == [t >= 8 for t in range(12)]


def test_frames_before_a_track_was_a_candidate_are_reported():
    encode = partial(encode_frames, sizes=[(HEIGHT, WIDTH)])
    linker = ClipLinker(encode, topk=1, threshold=0.3)
    masks = Scene(*[lambda t, x=x: (6 * x, 2) for x in range(8)], classes=[0] * 8).masks(0, 4)
    for number in range(3):
        logits = torch.zeros(8, 4)
        logits[:, 3] = torch.arange(8.0)  # the last ones are hardly objects
        if number == 2:
            logits[7] = torch.tensor([99.0, 0, 0, 0])
        linker.add(3 * number, logits, masks)
    result = linker.finish()
    assert result["pred_missing_frames"] == [6]  # those before the clip that made it a candidate
    seen = result["pred_masks"][0].flatten(1).any(1).tolist()
    assert seen == [False] * 6 + [True] * 4


def test_clips_have_to_overlap():
    linker = ClipLinker(partial(encode_frames, sizes=[(4, 4)]), topk=1, threshold=0.3)
    linker.add(0, torch.zeros(2, 4), torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="expected a frame of the clip before, 1 to 2, got 3"):
        linker.add(3, torch.zeros(2, 4), torch.zeros(2, 3, 4, 4))


def test_soft_iou_is_of_minima_and_maxima():
    first, second = torch.randn(3, 2, 4, 5), torch.randn(6, 2, 4, 5)
    a, b = first.sigmoid().flatten(1)[:, None], second.sigmoid().flatten(1)
    expected = torch.minimum(a, b).sum(-1) / (torch.maximum(a, b).sum(-1) + 1e-6)
    torch.testing.assert_close(soft_iou(first, second), expected)


def test_best_pairs_of_ties_are_the_first():
    scores, tracks, labels = best_pairs(torch.tensor([[0.1, 0.5], [0.5, 0.2]]), 9)
    torch.testing.assert_close(scores, torch.tensor([0.5, 0.5, 0.2, 0.1]))
    assert tracks.tolist() == [0, 1, 1, 0] and labels.tolist() == [1, 0, 1, 0]


def test_masks_of_tracks_are_decoded_when_asked_for():
    logits = torch.randn(3, 2, 5, 7)
    masks = TrackMasks(encode_frames(logits, [(5, 7)]))
    assert len(masks) == 3
    assert all(torch.equal(mask, row > 0) for mask, row in zip(masks, logits, strict=True))
    with pytest.raises(IndexError):
        masks[3]
