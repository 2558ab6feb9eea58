import itertools

import pytest
import torch

from segcore.config import get_cfg
from segcore.inference import PanopticMerging
from segcore.inference.mask_wise import rate_masks as rate_masks_by
from segcore.inference.merging import STRATEGIES
from segcore.inference.rating import MaskRating

THINGS = {0, 1}
EVERYTHING = slice(None)
# Nothing is left out by its scores.
LOOSE = {"quality_thresholds": (0.0, 0.0), "score_threshold": 0.0, "min_visible_share": 0.0}


def masks_of(*regions, shape=(4, 10), value=0.9):
    """Mask values: ``value`` inside of each (rows, columns), 0.1 outside."""
    masks = torch.full((len(regions), *shape), 0.1)
    for mask, (rows, columns) in zip(masks, regions, strict=True):
        mask[rows, columns] = value
    return masks


def rate_masks(scores, masks, mask_threshold=0.5, class_exponent=1.0, mask_exponent=2.0):
    rating = MaskRating(mask_threshold, class_exponent=class_exponent, mask_exponent=mask_exponent)
    return rate_masks_by(scores, masks, rating)


def columns(start, stop):
    return EVERYTHING, slice(start, stop)


def merge(strategy, scores, labels, masks, thing_ids=THINGS, **options):
    merging = PanopticMerging(strategy, **(LOOSE | options))
    scores = torch.as_tensor(scores, dtype=masks.dtype)
    panoptic, segments = merging(scores, torch.tensor(labels, dtype=torch.int64), masks, thing_ids)
    assert panoptic.dtype == torch.int32 and panoptic.shape == masks.shape[1:]
    # Detectron2's evaluator and panopticapi insist on it.
    assert set(panoptic.unique().tolist()) - {0} == {segment["id"] for segment in segments}
    assert [segment["id"] for segment in segments] == list(range(1, len(segments) + 1))
    return panoptic, segments


def classes(segments):
    return [(segment["category_id"], segment["isthing"]) for segment in segments]


def smooth_masks(count, size=(33, 47), largest=1.3):
    """Blobs with values from 0 to ``largest``, as those of ReLU masks."""
    coarse = torch.randn(1, count, 4, 5)
    masks = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0]
    return masks.clamp(0, largest)


def plain_mask_wise(scores, labels, masks, thing_ids, quality, overlap):
    """Mask-wise merging of Panoptic SegFormer, mask by mask; stuff classes are distinct."""
    ratings = []
    for score, mask in zip(scores, masks, strict=True):
        inside = mask > 0.5
        mean = mask[inside].sum() / (inside.sum() + 1)
        ratings.append((score * mean**2).item())
    panoptic = torch.zeros(masks.shape[1:], dtype=torch.int32)
    segments = []
    for index in sorted(range(len(masks)), key=lambda i: -ratings[i]):
        label = labels[index].item()
        isthing = label in thing_ids
        if ratings[index] < quality[not isthing]:
            continue
        inside = masks[index] > 0.5
        area, taken = inside.sum().item(), (inside & (panoptic > 0)).sum().item()
        if area == 0 or taken / area > overlap[not isthing]:
            continue
        segments.append(
            {
                "id": len(segments) + 1,
                "isthing": isthing,
                "category_id": label,
                "score": pytest.approx(ratings[index]),
            }
        )
        panoptic[inside & (panoptic == 0)] = len(segments)
    return panoptic, segments


@pytest.mark.parametrize("seed", range(8))
def test_mask_wise_equals_plain_merging(seed):
    torch.manual_seed(seed)
    labels = torch.cat((torch.randint(0, 2, (10,)), torch.arange(2, 8)))
    scores, masks = torch.rand(16).double(), smooth_masks(16).double()
    thresholds = {"quality_thresholds": (0.2, 0.1), "overlap_thresholds": (0.4, 0.2)}
    panoptic, segments = merge("mask_wise", scores, labels.tolist(), masks, **thresholds)
    expected, expected_segments = plain_mask_wise(
        scores, labels, masks, THINGS, *thresholds.values()
    )
    assert segments and segments == expected_segments
    assert torch.equal(panoptic, expected)


@pytest.mark.parametrize("seed", range(4))
def test_pixel_wise_equals_plain_argmax(seed):
    torch.manual_seed(seed)
    labels = list(range(2, 10))  # distinct stuff classes
    scores, masks = torch.rand(8), smooth_masks(8)
    panoptic, segments = merge("pixel_wise", scores, labels, masks)
    winner = (masks.clamp(max=1) * scores[:, None, None]).argmax(0)
    foreground = masks.gather(0, winner[None])[0] >= 0.5
    category = torch.tensor([-1, *(segment["category_id"] for segment in segments)])[panoptic]
    assert torch.equal(category, torch.where(foreground, winner + 2, -1))


def test_rating_divides_by_area_plus_one():
    masks = masks_of((0, slice(0, 3)), (0, slice(0, 0)), columns(0, 10), value=1.5).double()
    rated = rate_masks(torch.tensor([0.5, 0.9, 0.9]).double(), masks)
    expected = torch.tensor([0.5 * (4.5 / 4) ** 2, 0.0, 0.9 * (60 / 41) ** 2]).double()
    torch.testing.assert_close(rated.scores, expected, rtol=1e-6, atol=0)
    assert rated.areas.tolist() == [3, 0, 40]
    assert torch.equal(rated.binary, masks > 0.5)
    options = {"class_exponent": 2.0, "mask_exponent": 1.0, "mask_threshold": 2.0}
    rated = rate_masks(torch.tensor([3.0]).double(), 4 * torch.ones(1, 3, 3).double(), **options)
    assert rated.scores.tolist() == [9 * 36 / 10]


def test_half_precision_counts_many_pixels():
    # 400 x 400 pixels are more than a float16 can count.
    rated = rate_masks(torch.tensor([0.5]).half(), torch.ones(1, 400, 400).half())
    assert rated.scores.dtype == torch.float32
    torch.testing.assert_close(rated.scores, torch.tensor([0.5]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(strategy, dtype):
    masks = masks_of(columns(0, 4), columns(4, 9)).to(dtype)
    panoptic, segments = merge(strategy, [0.8, 0.7], [2, 0], masks)
    assert classes(segments) == [(2, False), (0, True)]
    assert panoptic[0].tolist() == [1] * 4 + [2] * 5 + [0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_half_masks_do_not_blur_scores(strategy):
    masks = masks_of(columns(0, 10), columns(0, 10)).half()
    scores = torch.tensor([0.5, 0.5001])  # equal in half precision
    merging = PanopticMerging(strategy)
    _, segments = merging(scores, torch.tensor([0, 1]), masks, THINGS)
    assert classes(segments) == [(1, True)]


def test_score_at_the_quality_threshold_is_kept():
    # 3 pixels of 1 and a score of 0.64: merged 0.36.
    masks = masks_of((0, slice(0, 3)), value=1.0)
    scores, labels = [0.64], [0]
    at = {"quality_thresholds": (0.36, 1.0)}
    merged = rate_masks(torch.tensor(scores), masks).scores.item()
    assert merged == pytest.approx(0.36)
    for threshold, count in ((merged, 1), (merged + 1e-6, 0)):
        at = {"quality_thresholds": (threshold, 1.0)}
        assert len(merge("mask_wise", scores, labels, masks, **at)[1]) == count
    # The threshold of stuff is another.
    assert merge("mask_wise", scores, [2], masks, **at)[1] == []


@pytest.mark.parametrize("label, limit", [(0, 0.4), (2, 0.2)])
def test_overlap_at_the_threshold_is_kept(label, limit):
    taken = round(10 * limit)
    first = columns(0, taken)
    for width, kept in ((10, True), (9, False)):
        masks = masks_of(first, columns(0, width))
        panoptic, segments = merge("mask_wise", [0.9, 0.5], [1, label], masks)
        assert len(segments) == 1 + kept
        rest = [2] * (width - taken) if kept else [0] * (width - taken)
        assert panoptic[0].tolist() == [1] * taken + rest + [0] * (10 - width)


def test_mask_wise_writes_slivers_and_duplicates_only_once():
    pixel = (0, slice(0, 1))
    masks = masks_of(pixel, columns(2, 6), columns(2, 6))
    panoptic, segments = merge("mask_wise", [0.9, 0.8, 0.8], [2, 0, 1], masks)
    # Equal scores keep their order; the second copy is taken already. A pixel scores (0.9 / 2)^2.
    assert classes(segments) == [(0, True), (2, False)]
    assert panoptic[0].tolist() == [2, 0, 1, 1, 1, 1, 0, 0, 0, 0]


def test_mask_that_is_taken_entirely_is_no_segment():
    masks = masks_of(columns(0, 10), columns(2, 6))
    _, segments = merge("mask_wise", [0.9, 0.8], [0, 1], masks, overlap_thresholds=(1.0, 1.0))
    assert classes(segments) == [(0, True)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stuff_of_one_class_is_one_segment(strategy):
    masks = masks_of(columns(0, 2), columns(3, 5), columns(6, 8))
    panoptic, segments = merge(strategy, [0.9, 0.8, 0.7], [3, 0, 3], masks)
    assert classes(segments) == [(3, False), (0, True)]
    assert panoptic[0].tolist() == [1, 1, 0, 2, 2, 0, 1, 1, 0, 0]


def test_only_mask2former_drops_what_is_hardly_visible():
    masks = masks_of(columns(0, 10), columns(0, 6))
    scores, labels = [0.7, 0.9], [0, 1]
    share = {"min_visible_share": 0.5}
    panoptic, segments = merge("mask2former", scores, labels, masks, **share)
    assert classes(segments) == [(1, True)]
    assert panoptic[0].tolist() == [1] * 6 + [0] * 4
    panoptic, segments = merge("pixel_wise", scores, labels, masks, **share)
    assert classes(segments) == [(0, True), (1, True)]
    assert panoptic[0].tolist() == [2] * 6 + [1] * 4


@pytest.mark.parametrize("strategy", ["pixel_wise", "mask2former"])
def test_large_mask_values_count_as_one(strategy):
    masks = masks_of(columns(0, 10), columns(0, 10))
    masks[0] *= 5
    assert classes(merge(strategy, [0.5, 0.6], [0, 1], masks)[1]) == [
        (1, True)
    ]  # 0.5 * 1 < 0.6 * 0.9
    masks[1] = 0.4  # now the first wins everywhere
    assert classes(merge(strategy, [0.5, 0.6], [0, 1], masks)[1]) == [(0, True)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("things", [set(), {0, 1, 2, 3}])
def test_without_things_or_stuff(strategy, things):
    masks = masks_of(columns(0, 4), columns(4, 9))
    _, segments = merge(strategy, [0.9, 0.8], [3, 1], masks, thing_ids=things)
    assert classes(segments) == [(3, bool(things)), (1, bool(things))]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_to_merge(strategy):
    cases = {
        "no mask": ([], torch.zeros(0, 4, 10)),
        "low scores": ([0.1, 0.2], masks_of(columns(0, 4), columns(4, 9))),
        "empty masks": ([0.9, 0.8], torch.zeros(2, 4, 10)),
        "no pixel": ([0.9, 0.8], torch.zeros(2, 0, 10)),
    }
    for scores, masks in cases.values():
        options = {"quality_thresholds": (0.25, 0.25), "score_threshold": 0.3}
        panoptic, segments = merge(strategy, scores, [0, 2][: len(scores)], masks, **options)
        assert segments == [] and not panoptic.any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_inputs_are_left_alone(strategy):
    masks = masks_of(columns(0, 6), columns(4, 10), value=1.5)
    copy = masks.clone()
    merge(strategy, [0.9, 0.8], [0, 2], masks)
    assert torch.equal(masks, copy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(3))
def test_only_candidates_matter(strategy, seed):
    torch.manual_seed(seed)
    labels = torch.cat((torch.randint(0, 2, (10,)), torch.arange(2, 8)))
    scores, masks = torch.rand(16), smooth_masks(16)
    scores[::5] /= 20
    merging = PanopticMerging(strategy)
    kept = merging.candidates(scores, labels, THINGS, masks.amax((1, 2)))
    assert 0 < kept.sum() < 16
    panoptic, segments = merging(scores, labels, masks, THINGS)
    fewer, same_segments = merging(scores[kept], labels[kept], masks[kept], THINGS)
    assert torch.equal(panoptic, fewer) and segments == same_segments


def test_rating_may_be_given():
    masks = masks_of(columns(0, 6), columns(4, 10))
    scores, labels = torch.tensor([0.9, 0.8]), torch.tensor([0, 2])
    merging = PanopticMerging("mask_wise")
    expected = merging(scores, labels, masks, THINGS)
    rated = merging.rate(scores, masks)
    panoptic, segments = merging(scores, labels, torch.zeros_like(masks), THINGS, rated)
    assert torch.equal(panoptic, expected[0]) and segments == expected[1]


def test_config_keys():
    cfg = get_cfg()
    keys = cfg.MODEL.PANOPTIC_MERGING
    default = PanopticMerging("mask_wise")
    assert PanopticMerging.from_config(cfg, "mask_wise") == default
    assert PanopticMerging.from_config(cfg, "mask2former").strategy == "mask2former"
    numbers = itertools.count(1)
    for key in keys:
        if key != "STRATEGY":
            keys[key] = next(numbers) / 100
    keys.STRATEGY = "pixel_wise"
    merging = PanopticMerging.from_config(cfg, "mask_wise", score_threshold=0.7)
    assert merging == PanopticMerging(
        "pixel_wise",
        quality_thresholds=(keys.QUALITY_THRESHOLD_THINGS, keys.QUALITY_THRESHOLD_STUFF),
        overlap_thresholds=(keys.OVERLAP_THRESHOLD_THINGS, keys.OVERLAP_THRESHOLD_STUFF),
        mask_threshold=keys.MASK_THRESHOLD,
        class_exponent=keys.CLASS_EXPONENT,
        mask_exponent=keys.MASK_EXPONENT,
        score_threshold=0.7,
        min_visible_share=keys.MIN_VISIBLE_SHARE,
    )


def test_unknown_strategy():
    cfg = get_cfg()
    cfg.MODEL.PANOPTIC_MERGING.STRATEGY = "maskwise"
    with pytest.raises(ValueError, match=r"PANOPTIC_MERGING.STRATEGY: .*mask_wise.*'maskwise'"):
        PanopticMerging.from_config(cfg, "mask_wise")
