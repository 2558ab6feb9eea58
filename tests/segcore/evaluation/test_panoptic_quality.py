"""Panoptic quality held against panopticapi, and against cases worked out by hand."""

import contextlib
import io
import math
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from panopticapi import evaluation as panopticapi
from panopticapi.utils import id2rgb

from segcore.evaluation import PanopticQuality
from segcore.evaluation.boundary import boundary_map
from segcore.evaluation.panoptic_result import PanopticResult
from segcore.evaluation.segment_overlaps import segment_overlaps

CATEGORIES = [{"id": i, "name": f"class {i}", "isthing": i % 2} for i in (1, 3, 8, 90, 200)]
UNKNOWN_CATEGORY = 999
MAX_ID = 2**24 - 1


def random_image(rng: np.random.Generator) -> tuple[np.ndarray, list, np.ndarray, list]:
    """Maps and segments of prediction and truth, with void, crowds and wrong areas and classes."""
    height, width = rng.integers(1, 24, 2)
    rows, columns = np.mgrid[:height, :width]
    seeds = rng.integers(0, [height, width], (8, 2))
    cells = ((rows - seeds[:, :1, None]) ** 2 + (columns - seeds[:, 1:, None]) ** 2).argmin(0)

    truth_ids = 1 + rng.choice(MAX_ID, 8, replace=False)
    truth = np.where(cells < rng.integers(0, 9), truth_ids[cells], 0)
    truth_segments = [
        {
            "id": int(id_),
            "category_id": int(rng.choice([*(c["id"] for c in CATEGORIES), UNKNOWN_CATEGORY])),
            "iscrowd": int(rng.random() < 0.2),
            "area": round(area * (1 if rng.random() < 0.9 else 1.3)),
        }
        for id_, area in ((id_, np.count_nonzero(truth == id_)) for id_ in truth_ids)
        if area or rng.random() < 0.1
    ]
    classes = {segment["id"]: segment["category_id"] for segment in truth_segments}

    predicted_cells = (
        np.roll(cells, rng.integers(-2, 3), 1),
        np.where(columns > width // 2, cells, 7 - cells),
        rng.integers(0, 8, cells.shape),
    )[rng.integers(3)]
    ids = 1 + rng.choice(MAX_ID, 8, replace=False)
    prediction = np.where(predicted_cells < rng.integers(0, 9), ids[predicted_cells], 0)
    segments = []
    for id_ in np.setdiff1d(prediction, [0]):
        likely = classes.get(int(truth_ids[np.flatnonzero(ids == id_)[0]]), UNKNOWN_CATEGORY)
        guess = int(rng.choice([c["id"] for c in CATEGORIES]))
        category = guess if likely == UNKNOWN_CATEGORY or rng.random() < 0.3 else likely
        segments.append({"id": int(id_), "category_id": category})
    return prediction, segments, truth, truth_segments


def count_by_panopticapi(
    monkeypatch: pytest.MonkeyPatch, images: Sequence[tuple]
) -> panopticapi.PQStat:
    """Sum of the counts of each image, from maps instead of files."""
    stat = panopticapi.PQStat()
    categories = {category["id"]: category for category in CATEGORIES}
    for prediction, segments, truth, truth_segments in images:
        maps = {"truth/map": id2rgb(truth), "prediction/map": id2rgb(prediction)}
        monkeypatch.setattr(panopticapi.Image, "open", maps.__getitem__)
        pair = (
            {"image_id": 1, "file_name": "map", "segments_info": truth_segments},
            {"file_name": "map", "segments_info": [dict(segment) for segment in segments]},
        )
        with contextlib.redirect_stdout(io.StringIO()):
            stat += panopticapi.pq_compute_single_core(0, [pair], "truth", "prediction", categories)
    return stat


def quality_of(images: Sequence[tuple], **options) -> PanopticResult:
    quality = PanopticQuality(CATEGORIES, **options)
    for image in images:
        quality.update(*image)
    return quality.compute()


def test_counts_and_sums_are_those_of_panopticapi_to_the_last_bit(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    images = [random_image(rng) for _ in range(400)]
    expected = count_by_panopticapi(monkeypatch, images)
    result = quality_of(images)
    counts = result.counts()
    for index, category in enumerate(CATEGORIES):
        row = expected[category["id"]]
        found = [getattr(counts, name)[index] for name in ("tp", "fp", "fn", "iou")]
        assert found == [row.tp, row.fp, row.fn, row.iou]
        assert min(row.tp, row.fp, row.fn) > 20
    for things in (None, True, False):
        by_id = {category["id"]: category for category in CATEGORIES}
        theirs, _ = expected.pq_average(by_id, things)
        ours = result.mean(things=things)
        assert (ours.pq, ours.sq, ours.rq, ours.num_classes) == tuple(theirs.values())


def one_row(
    truth: Sequence[int],
    prediction: Sequence[int],
    truth_classes: dict[int, int],
    classes: dict[int, int],
    crowd: Sequence[int] = (),
) -> PanopticResult:
    truth_segments = [
        {"id": i, "category_id": c, "iscrowd": int(i in crowd)} for i, c in truth_classes.items()
    ]
    segments = [{"id": i, "category_id": c} for i, c in classes.items()]
    return quality_of([(np.array([prediction]), segments, np.array([truth]), truth_segments)])


def causes(result: PanopticResult) -> dict[str, float]:
    return {cause: cost for cause, cost in result.costs().items() if cost}


def test_iou_of_exactly_a_half_is_no_match():
    result = one_row([1, 1, 2, 2], [5, 0, 0, 0], {1: 1, 2: 3}, {5: 1})
    counts = result.counts()
    assert (counts.tp.sum(), counts.fp[0], counts.fn[0]) == (0, 1, 1)
    assert causes(result) == {"outline": 0.5, "missed": 0.5}


def test_void_and_crowds_cost_nothing():
    truth, prediction = [0, 0, 0, 4, 4, 4, 1], [5, 5, 0, 6, 6, 6, 7]
    result = one_row(truth, prediction, {4: 3, 1: 1}, {5: 1, 6: 3, 7: 1}, crowd=[4])
    assert result.mean().pq == 1
    assert result.mean().num_classes == 1


@pytest.mark.parametrize(
    ("truth", "prediction", "truth_classes", "classes", "expected"),
    [
        ([1, 1, 1], [5, 5, 5], {1: 1}, {5: 3}, {"wrong class": 1.0}),
        ([1] * 3 + [2] * 3, [5] * 6, {1: 1, 2: 1}, {5: 1}, {"merged": 1.0}),
        ([1] * 6, [5] * 3 + [6] * 3, {1: 1}, {5: 1, 6: 1}, {"split": 1.0}),
        ([1] * 5 + [0] * 3, [5] * 2 + [0] * 6, {1: 1}, {5: 1}, {"outline": 1.0}),
        ([1, 1, 3, 3], [0, 0, 6, 6], {1: 1, 3: 3}, {6: 3}, {"missed": 0.5}),
        ([1, 1, 3, 3], [5, 5, 6, 6], {1: 1, 3: 3}, {5: 1, 6: 8}, {"wrong class": 2 / 3}),
        ([2, 2, 2, 2, 2], [5, 6, 6, 6, 6], {2: 1}, {5: 3, 6: 1}, None),
    ],
)
def test_causes(truth, prediction, truth_classes, classes, expected):
    result = one_row(truth, prediction, truth_classes, classes)
    if expected is None:  # 1 - IoU of the match, and a segment of nothing
        expected = {"outline": 0.1, "invented": 0.5}
    assert causes(result) == pytest.approx(expected)


def test_costs_and_quality_sum_up_to_one():
    rng = np.random.default_rng(1)
    result = quality_of([random_image(rng) for _ in range(300)])
    costs = result.costs()
    assert min(costs.values()) > 0
    assert sum(costs.values()) + result.mean().pq == pytest.approx(1, abs=1e-12)


def test_confusion():
    result = one_row(
        [1, 1, 2, 2, 3, 3, 0, 4], [5, 5, 6, 6, 7, 7, 0, 8], {1: 1, 2: 3, 3: 8, 4: 90},
        {5: 1, 6: 8, 7: 8, 8: 90},
    )  # fmt: skip
    table = result.confusion()
    assert table[0, 0] == table[1, 2] == table[2, 2] == table[3, 3] == 1
    assert table.sum() == 4
    assert one_row([0, 0, 1], [0, 0, 0], {1: 3}, {}).confusion()[1, 5] == 1


def test_sizes_are_those_of_the_truth():
    truth = np.zeros((100, 200), int)
    truth[:10, :10], truth[:50, 50:100], truth[:, 100:] = 1, 2, 3
    segments = [{"id": i, "category_id": 1} for i in (1, 2, 3)]
    prediction = np.where(truth == 2, 0, truth)
    result = quality_of([(prediction, [segments[0], segments[2]], truth, segments)])
    assert [result.mean(size=size).pq for size in ("small", "medium", "large")] == [1, 0, 1]
    with pytest.raises(ValueError, match=r"size: expected one of .*small.*, got 'tiny'"):
        result.mean(size="tiny")


def test_merged_parts_are_the_whole():
    rng = np.random.default_rng(2)
    images = [random_image(rng) for _ in range(30)]
    whole, parts = quality_of(images), [PanopticQuality(CATEGORIES) for _ in range(3)]
    for index, image in enumerate(images):
        parts[index // 10].update(*image)
    parts[0].merge(*parts[1:])
    assert len(parts[0]) == 30
    assert np.array_equal(parts[0].compute().counts().iou, whole.counts().iou)
    assert parts[0].compute().mean() == whole.mean()
    with pytest.raises(ValueError, match="same categories"):
        parts[0].merge(PanopticQuality(CATEGORIES[:2]))


def test_image_quality():
    perfect = (np.array([[5, 5]]), [{"id": 5, "category_id": 1}])
    empty = (np.array([[0, 0]]), [])
    result = quality_of([(*perfect, *perfect), (*empty, *perfect), (*empty, *empty)])
    quality = result.image_quality()
    assert quality[:2].tolist() == [1, 0]
    assert np.isnan(quality[2])


def test_nothing_at_all():
    result = PanopticQuality(CATEGORIES).compute()
    assert math.isnan(result.mean().pq)
    assert result.confusion().sum() == 0
    assert len(result.image_quality()) == 0


@pytest.mark.parametrize("boundary", [False, True])
@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 300), (7, 3)])
def test_odd_shapes(shape: tuple[int, int], boundary: bool):
    ids = np.full(shape, MAX_ID, np.int32)
    segments = [{"id": MAX_ID, "category_id": 3}] * (ids.size > 0)
    quality = quality_of([(ids, segments, ids, segments)], boundary=boundary).mean().pq
    assert quality == 1 if ids.size else math.isnan(quality)


def test_overlaps_are_the_joint_histogram():
    rng = np.random.default_rng(3)
    truth = rng.choice([0, 5, 2**23, MAX_ID], (40, 30)).astype(np.uint32)
    prediction = rng.choice([0, 1, MAX_ID], (40, 30)).astype(np.int32)
    overlaps = segment_overlaps(truth, prediction)
    pairs = list(zip(overlaps.truth.tolist(), overlaps.prediction.tolist(), strict=True))
    assert pairs == sorted(
        set(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    )
    for (a, b), area in zip(pairs, overlaps.areas, strict=True):
        assert area == np.count_nonzero((truth == a) & (prediction == b))


def by_erosion(ids: np.ndarray, ratio: float) -> np.ndarray:
    """Boundaries segment by segment, as the published code of Boundary IoU erodes masks."""
    distance = max(1, round(ratio * math.hypot(*ids.shape)))
    boundaries = np.zeros_like(ids)
    for id_ in np.unique(ids):
        mask = cv2.copyMakeBorder((ids == id_).astype(np.uint8), 1, 1, 1, 1, 0, value=0)
        eroded = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=distance)
        boundaries[(mask - eroded)[1:-1, 1:-1] > 0] = id_
    return boundaries


@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_boundaries_are_those_of_eroded_masks(ratio: float):
    rng = np.random.default_rng(4)
    for height, width in rng.integers(1, 60, (20, 2)):
        blocks = rng.integers(0, MAX_ID + 1, (height // 9 + 1, width // 9 + 1))
        ids = np.kron(blocks, np.ones((9, 9), int))[:height, :width]
        assert np.array_equal(boundary_map(ids, ratio), by_erosion(ids, ratio))


def boundary_by_definition(mask: np.ndarray, reach: int) -> np.ndarray:
    """Pixels of a mask with a pixel outside of it, or of the image, at most ``reach`` away."""
    outside = np.pad(~mask, reach, constant_values=True)
    squares = np.lib.stride_tricks.sliding_window_view(outside, (2 * reach + 1, 2 * reach + 1))
    return mask & squares.any(axis=(2, 3))


def boundary_counts_by_definition(images: Sequence[tuple], ratio: float) -> tuple[np.ndarray, ...]:
    """tp, fp, fn and the sum of IoU a class: pair by pair, mask by mask."""
    counts = {category["id"]: np.zeros(4) for category in CATEGORIES}
    for prediction, segments, truth, truth_segments in images:
        reach = max(1, round(ratio * math.hypot(*truth.shape)))
        void, found, matched = truth == 0, {}, set()
        for segment in segments:
            found[segment["id"]] = (prediction == segment["id"], segment["category_id"])
        crowds = {s["category_id"]: truth == s["id"] for s in truth_segments if s["iscrowd"]}
        for segment in truth_segments:
            category, mask = segment["category_id"], truth == segment["id"]
            if segment["iscrowd"] or category not in counts:
                continue
            hits = []
            for id_, (pixels, other) in found.items():
                valid = pixels & ~void
                if other == category and (both := (mask & valid).sum()):
                    iou = both / (segment["area"] + valid.sum() - both)
                    edge, other_edge = (boundary_by_definition(m, reach) for m in (mask, valid))
                    edge_iou = (edge & other_edge).sum() / max((edge | other_edge).sum(), 1)
                    if min(iou, edge_iou) > 0.5:
                        hits.append((id_, min(iou, edge_iou)))
            matched |= {id_ for id_, _ in hits}
            counts[category] += [len(hits), 0, not hits, sum(iou for _, iou in hits)]
        for id_, (pixels, category) in found.items():
            nobody = void | crowds.get(category, False)
            counts[category][1] += (
                id_ not in matched and (pixels & nobody).sum() <= pixels.sum() / 2
            )
    return tuple(np.stack(list(counts.values()), axis=1))


@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_boundary_quality_is_that_of_the_definition(ratio: float):
    rng = np.random.default_rng(5)
    images = [random_image(rng) for _ in range(60)]
    counts = quality_of(images, boundary=True, dilation_ratio=ratio).counts()
    expected = boundary_counts_by_definition(images, ratio)
    for name, values in zip(("tp", "fp", "fn", "iou"), expected, strict=True):
        assert getattr(counts, name) == pytest.approx(values), name
        assert values.sum() > 10


def test_void_beside_a_segment_has_no_boundary():
    """What a prediction makes of void does not count, nor does its outline there."""
    truth = np.zeros((40, 40), int)
    truth[:, :20] = 1
    segments = [{"id": 1, "category_id": 1}]
    image = (np.ones_like(truth), segments, truth, segments)
    assert quality_of([image], boundary=True).mean().pq == 1


def test_boundary_quality_sees_what_masks_hide():
    truth = np.zeros((100, 100), int)
    truth[10:90, 10:90] = 1
    prediction = np.zeros_like(truth)
    prediction[14:86, 14:86] = 1
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 8}]
    truth[truth == 0] = prediction[prediction == 0] = 2
    image = (prediction, segments, truth, segments)
    assert quality_of([image]).counts().iou[0] == 72**2 / 80**2
    # Rings 3 pixels wide that do not touch.
    assert quality_of([image], boundary=True).counts().tp[0] == 0


GOOD = (np.array([[1, 2]]), [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 3}])


@pytest.mark.parametrize(
    ("ids", "segments", "message"),
    [
        ([[1, 4]], GOOD[1], "expected one with id 4, which is on the map"),
        ([[1, 1]], GOOD[1], "segment 2 of the prediction: expected pixels on the map, got none"),
        ([[1, 0]], [{"id": 1, "category_id": 7}], "expected a category_id .*, got 7"),
        ([[1, 2, 2]], GOOD[1], r"prediction: expected shape \(1, 2\), got \(1, 3\)"),
        ([[1.0, 2.0]], GOOD[1], r"prediction: expected integers \(H, W\), got float64"),
        ([1, 2], GOOD[1], r"expected integers \(H, W\), got int64 \(2,\)"),
        ([[-1, 2]], GOOD[1], r"prediction: expected ids in \[0, 16777215\], got -1 to 2"),
        ([[2**24, 2]], GOOD[1], "expected ids in .* got 2 to 16777216"),
    ],
)
def test_wrong_predictions_are_refused_and_not_counted(ids, segments, message):
    quality = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match=message):
        quality.update(np.array(ids), segments, *GOOD)
    assert len(quality) == 0


def test_categories_with_one_id():
    with pytest.raises(ValueError, match="categories: expected different ids"):
        PanopticQuality([{"id": 1}, {"id": 1}])
