import pytest
import torch

from mask2former.postprocess import mask_prediction
from segcore.inference import PanopticMerging, ResultMaker

NUM_CLASSES = 4
THINGS = {0, 1}
OPTIONS = {"thing_ids": THINGS, "object_mask_threshold": 0.5, "overlap_threshold": 0.5}


def panoptic_inference(
    class_logits, mask_logits, *, thing_ids, object_mask_threshold, overlap_threshold
):
    """With Mask2Former's merging."""
    merging = PanopticMerging(
        "mask2former", score_threshold=object_mask_threshold, min_visible_share=overlap_threshold
    )
    size = tuple(mask_logits.shape[1:])
    prediction = mask_prediction(class_logits, mask_logits, (size,), topk=1)
    maker = ResultMaker(merging, thing_ids, semantic_on=False, instance_on=False)
    return maker(prediction)["panoptic_seg"]


def logits_of(classes, score=0.9):
    """Class logits whose best class is each of ``classes`` with probability ``score``."""
    rest = (1 - score) / NUM_CLASSES
    logits = torch.full((len(classes), NUM_CLASSES + 1), rest).log()
    logits[torch.arange(len(classes)), torch.tensor(classes)] = torch.tensor(score).log()
    return logits


def masks_of(*regions, shape=(6, 8)):
    """Mask logits of +5 inside of each (rows, columns), -5 outside."""
    masks = torch.full((len(regions), *shape), -5.0)
    for mask, (rows, columns) in zip(masks, regions, strict=True):
        mask[rows, columns] = 5.0
    return masks


def plain(class_logits, mask_logits, thing_ids, object_mask_threshold, overlap_threshold):
    """The merging of MaskFormer (Cheng et al., 2021), section 3.4, query by query."""
    scores, labels = class_logits.softmax(-1).max(-1)
    kept = (labels != class_logits.shape[1] - 1) & (scores > object_mask_threshold)
    scores, labels, masks = scores[kept], labels[kept], mask_logits[kept].sigmoid()
    panoptic = torch.zeros(mask_logits.shape[1:], dtype=torch.int32)
    segments, stuff = [], {}
    if len(masks) == 0:
        return panoptic, segments
    assignment = (scores[:, None, None] * masks).argmax(0)
    for query, label in enumerate(labels.tolist()):
        assigned, original = assignment == query, masks[query] >= 0.5
        final = assigned & original
        if not (assigned.any() and original.any() and final.any()):
            continue
        if assigned.sum().item() / original.sum().item() < overlap_threshold:
            continue
        isthing = label in thing_ids
        if not isthing and label in stuff:
            panoptic[final] = stuff[label]
            continue
        segments.append({"id": len(segments) + 1, "isthing": isthing, "category_id": label})
        panoptic[final] = len(segments)
        if not isthing:
            stuff[label] = len(segments)
    return panoptic, segments


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("overlap_threshold", [0.0, 0.3, 0.8])
def test_equals_plain_merging(seed, overlap_threshold):
    torch.manual_seed(seed)
    class_logits = 3 * torch.randn(12, NUM_CLASSES + 1)
    mask_logits = torch.nn.functional.interpolate(
        5 * torch.randn(1, 12, 4, 5), (33, 47), mode="bicubic"
    )[0]
    options = OPTIONS | {"overlap_threshold": overlap_threshold}
    panoptic, segments = panoptic_inference(class_logits, mask_logits, **options)
    expected, expected_segments = plain(class_logits, mask_logits, **options)
    assert panoptic.dtype == torch.int32
    assert torch.equal(panoptic, expected)
    assert segments == expected_segments


def test_stuff_merges_and_things_do_not():
    left, middle, right = slice(0, 2), slice(3, 5), slice(6, 8)
    rows = slice(None)
    masks = masks_of((rows, left), (rows, right), (slice(0, 3), middle), (slice(3, 6), middle))
    panoptic, segments = panoptic_inference(logits_of([3, 3, 1, 1]), masks, **OPTIONS)
    assert segments == [
        {"id": 1, "isthing": False, "category_id": 3},
        {"id": 2, "isthing": True, "category_id": 1},
        {"id": 3, "isthing": True, "category_id": 1},
    ]
    assert panoptic[0].tolist() == [1, 1, 0, 2, 2, 0, 1, 1]
    assert panoptic[5].tolist() == [1, 1, 0, 3, 3, 0, 1, 1]


def test_covered_query_leaves_a_hole():
    whole = (slice(None), slice(None))
    most = (slice(None), slice(0, 6))
    class_logits = torch.cat([logits_of([0], score=0.7), logits_of([2], score=0.9)])
    panoptic, segments = panoptic_inference(class_logits, masks_of(whole, most), **OPTIONS)
    # The first query keeps 2 of 8 columns: left out, and its columns stay void.
    assert segments == [{"id": 1, "isthing": False, "category_id": 2}]
    assert panoptic[0].tolist() == [1] * 6 + [0] * 2


@pytest.mark.parametrize("classes, score", [([NUM_CLASSES] * 2, 0.9), ([0, 1], 0.4)])
def test_nothing_kept(classes, score):
    masks = masks_of((slice(None), slice(None)), (slice(0, 2), slice(0, 2)))
    panoptic, segments = panoptic_inference(logits_of(classes, score), masks, **OPTIONS)
    assert segments == []
    assert torch.equal(panoptic, torch.zeros(6, 8, dtype=torch.int32))


def test_threshold_is_strict():
    class_logits = torch.zeros(1, 2, dtype=torch.float64)
    class_logits[0, 0] = 100  # probability 1 of the only class
    masks = torch.ones(1, 2, 2, dtype=torch.float64)
    options = {"thing_ids": {0}, "overlap_threshold": 0.0}
    for threshold, count in ((1.0, 0), (0.999, 1)):
        _, segments = panoptic_inference(
            class_logits, masks, object_mask_threshold=threshold, **options
        )
        assert len(segments) == count


def test_inputs_are_left_alone():
    class_logits, masks = logits_of([0, 3]), masks_of((slice(0, 3), slice(0, 3)), (slice(4, 6), 0))
    copy = masks.clone()
    panoptic_inference(class_logits, masks, **OPTIONS)
    assert torch.equal(masks, copy)
