"""Large images in tiles: the tiles, and segments that are joined across the seams."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import scipy.ndimage
import torch
from detectron2.structures import Boxes, Instances

from segcore.errors import ConfigError
from segcore.inference.tiled_prediction import predict_tiles
from segcore.inference.tiles import tiles_of

SKY, ROAD, CAT, DOG = range(4)
THINGS = (CAT, DOG)


def scene():
    """Classes and objects (90, 130): sky over road, three cats and a dog across seams."""
    classes = np.zeros((90, 130), np.uint8)
    classes[60:] = ROAD
    objects = np.zeros(classes.shape, np.uint8)
    boxes = ((slice(5, 85), slice(5, 50)), (slice(20, 40), slice(60, 125)))
    boxes += ((slice(70, 80), slice(100, 105)), (slice(45, 68), slice(60, 90)))
    for number, box in enumerate(boxes, start=1):
        objects[box] = number
        classes[box] = DOG if number == 4 else CAT
    objects[5:75, 5:40] = 0  # the first is an L in a mirror: its ends meet in the tile below both
    classes[5:75, 5:40] = SKY
    return classes, objects


def as_photo(classes, objects):
    return np.dstack((classes, objects, np.zeros_like(classes)))


def perfect_model(photo):
    """The compact result of what a part of the scene shows; objects are seen as connected parts."""
    classes, objects = photo[..., 0], photo[..., 1]
    ids, segments, masks, labels = np.zeros(classes.shape, np.int32), [], [], []
    for number in np.unique(objects[objects > 0]):
        parts, count = scipy.ndimage.label(objects == number)
        for part in range(1, count + 1):
            label = int(classes[parts == part][0])
            masks.append(mask_util.encode(np.asfortranarray(parts == part, np.uint8)))
            labels.append(label)
            segments.append(segment(len(segments) + 1, label))
            ids[parts == part] = len(segments)
    for label in np.unique(classes[objects == 0]).tolist():
        segments.append(segment(len(segments) + 1, label))
        ids[(objects == 0) & (classes == label)] = len(segments)
    return {
        "panoptic_seg": (torch.from_numpy(ids), segments),
        "semantic_map": torch.from_numpy(classes.copy()),
        "instances": instances(masks, labels, classes.shape),
    }


def segment(id, label):
    return {"id": id, "isthing": label in THINGS, "category_id": label, "score": 0.5}


def instances(masks, labels, size, scores=None):
    return Instances(
        size,
        scores=torch.tensor([0.5] * len(masks) if scores is None else scores),
        pred_classes=torch.tensor(labels, dtype=torch.int64),
        pred_boxes=Boxes(torch.zeros(len(masks), 4)),
        pred_masks_rle=masks,
    )


def as_sets(ids, segments):
    """Pixels of each segment, with what is known of it, in an order that does not depend on ids."""
    ids = np.asarray(ids)
    return sorted(
        (s["category_id"], s["isthing"], s["score"], (ids == s["id"]).tobytes()) for s in segments
    )


@pytest.mark.parametrize(("tile", "overlap"), [(50, 10), (50, 25), (64, 13), (128, 16), (33, 7)])
def test_a_scene_is_joined_exactly(tile, overlap):
    photo = as_photo(*scene())
    result = predict_tiles(photo, perfect_model, tile, overlap)
    expected = perfect_model(photo)
    assert as_sets(*result["panoptic_seg"]) == as_sets(*expected["panoptic_seg"])
    assert torch.equal(result["semantic_map"], expected["semantic_map"])
    found, whole = result["instances"], expected["instances"]
    assert found.image_size == whole.image_size
    assert {str(mask) for mask in found.pred_masks_rle} == {
        str(mask) for mask in whole.pred_masks_rle
    }
    assert sorted(found.pred_classes.tolist()) == sorted(whole.pred_classes.tolist())
    assert found.scores.tolist() == [0.5] * len(whole)
    for box, mask in zip(found.pred_boxes.tensor.numpy(), found.pred_masks_rle, strict=True):
        rows, columns = np.nonzero(mask_util.decode(mask))
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("size", [(50, 50), (7, 50), (50, 1)])
def test_a_photo_of_one_tile_is_predicted_as_it_is(size):
    photo = np.zeros((*size, 3), np.uint8)
    given = []

    def predict(part):
        given.append(part)
        return {"semantic_map": "of the whole"}

    assert predict_tiles(photo, predict, 50, 10) == {"semantic_map": "of the whole"}
    assert given[0] is photo


@pytest.mark.parametrize("size", [(90, 130), (51, 50), (1, 500), (49, 89)])
def test_tiles_cover_the_image_and_overlap(size):
    tiles = list(tiles_of(size, 50, 10))
    new = np.zeros(size, int)
    for tile in tiles:
        height, width = tile.window.size
        assert (height, width) == (min(50, size[0]), min(50, size[1]))
        rows, columns = tile.shared
        assert rows == 0 if tile.row == 0 else rows >= 10
        assert columns == 0 if tile.column == 0 else columns >= 10
        fresh = np.ones((height, width), int)
        for strip in tile.strips():
            fresh[strip] = 0
        new[tile.window] += fresh
    assert (new == 1).all()


@pytest.mark.parametrize(("tile", "overlap"), [(50, 0), (50, 26), (1, 1), (50, -3)])
def test_overlaps_that_are_not_possible(tile, overlap):
    message = f"overlap: expected from 1 pixel to half of a tile of {tile}, got {overlap}"
    with pytest.raises(ConfigError, match=message):
        predict_tiles(np.zeros((90, 90, 3), np.uint8), perfect_model, tile, overlap)


def in_turn(*results):
    """A model that gives these results, whatever it sees."""
    results = iter(results)
    return lambda _: next(results)


def halves(first, second):
    """Join the panoptic maps of two tiles (10, 20) that share 8 columns of (10, 32)."""
    results = [{"panoptic_seg": (torch.from_numpy(ids), infos)} for ids, infos in (first, second)]
    photo = np.zeros((10, 32, 3), np.uint8)
    return predict_tiles(photo, in_turn(*results), 20, 8)["panoptic_seg"]


def box(columns, label, score=0.5):
    ids = np.zeros((10, 20), np.int32)
    ids[:, columns] = 7
    return ids, [{**segment(7, label), "score": score}]


def test_scores_are_means_by_area_and_classes_and_strips_decide():
    ids, segments = halves(box(slice(4, 20), CAT, 1.0), box(slice(0, 16), CAT, 0.5))
    assert [(s["id"], s["score"]) for s in segments] == [(1, 0.75)]
    assert (ids[:, 4:28] == 1).all()
    assert not ids[:, :4].any() and not ids[:, 28:].any()
    # Of another class, and of half of the strip only: two objects, cut in the middle.
    for first, second in (
        (box(slice(4, 20), CAT), box(slice(0, 16), DOG)),
        (box(slice(4, 20), CAT), box(slice(4, 16), CAT)),
    ):
        ids, segments = halves(first, second)
        assert [s["id"] for s in segments] == [1, 2]
        assert (ids[:, 4:16] == 1).all()
        assert (ids[:, 16:28] == 2).all()


def test_pixels_without_a_segment_take_that_of_the_other_tile():
    ids, segments = halves(box(slice(0, 19), CAT), (np.zeros((10, 20), np.int32), []))
    assert len(segments) == 1
    assert (ids[:, :19] == 1).all() and not ids[:, 19:].any()


def test_segments_that_the_other_tile_replaces_are_dropped():
    ids, segments = halves(box(slice(18, 20), DOG), box(slice(0, 20), SKY))
    assert [(s["id"], s["category_id"]) for s in segments] == [(1, SKY)]
    assert not ids[:, :12].any() and (ids[:, 12:] == 1).all()


def test_tiles_without_instances():
    nothing = {"instances": instances([], [], (10, 20))}
    found = predict_tiles(np.zeros((10, 32, 3), np.uint8), in_turn(nothing, nothing), 20, 8)
    assert len(found["instances"]) == 0


def test_instances_are_matched_one_to_one_and_sorted():
    def masks(*columns):
        pixels = [np.zeros((10, 20), np.uint8, "F") for _ in columns]
        for mask, part in zip(pixels, columns, strict=True):
            mask[:, part] = 1
        return [mask_util.encode(mask) for mask in pixels]

    left = masks(slice(0, 20), slice(2, 20))
    right = masks(slice(0, 6), slice(0, 18), slice(10, 12))
    results = (
        {"instances": instances(left, [CAT, CAT], (10, 20), [0.5, 0.25])},
        {"instances": instances(right, [DOG, CAT, DOG], (10, 20), [0.75, 0.5, 0.875])},
    )
    found = predict_tiles(np.zeros((10, 32, 3), np.uint8), in_turn(*results), 20, 8)["instances"]
    assert found.pred_classes.tolist() == [DOG, DOG, CAT, CAT]
    assert found.scores.tolist() == [0.875, 0.75, 0.5, 0.25]
    assert found.pred_boxes.tensor[:, [0, 2]].tolist() == [[22, 24], [12, 18], [0, 30], [2, 20]]
