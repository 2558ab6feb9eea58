import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from compact_results import assert_compact_equals
from mask2former.postprocess import mask_prediction
from panoptic_segformer.postprocess import mask_prediction as relu_mask_prediction
from segcore.inference import PanopticMerging, ResultMaker, compact
from segcore.inference.merging import STRATEGIES

THINGS = frozenset({0, 1, 2})
NUM_CLASSES = 7
# padded, image and output size
SIZES = {
    "enlarged": ((64, 96), (61, 83), (150, 201)),
    "reduced": ((128, 160), (128, 131), (70, 75)),
    "small": ((64, 96), (61, 83), (31, 40)),
    "one pixel": ((64, 96), (61, 83), (1, 1)),
    "one row": ((64, 96), (61, 83), (1, 200)),
}


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setitem(compact.WINDOW_BYTES, "cpu", 1 << 17)


@pytest.fixture(params=["compiled", "by windows"])
def one_pass(request, monkeypatch):
    """The operator where it is built, and what stands in for it elsewhere."""
    if request.param == "by windows":
        monkeypatch.setattr("segcore.inference.one_pass.is_served", lambda prediction: False)


def maker(strategy, **options):
    merging = PanopticMerging(
        strategy,
        score_threshold=0.15,
        min_visible_share=0.2,
        quality_thresholds=(0.1, 0.05),
        overlap_thresholds=(0.8, 0.7),
    )
    return ResultMaker(merging, THINGS, **options)


def blobs(count, size, seed, scale=6.0):
    generator = torch.Generator().manual_seed(seed)
    coarse = scale * torch.randn(count, 1, 4, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic")[:, 0]


def logits_prediction(sizes, *, count=12, seed=0, dtype=torch.float32, **options):
    padded_size = sizes[0]
    masks = blobs(count, (padded_size[0] // 4, padded_size[1] // 4), seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    class_logits = 2 * torch.randn(count, NUM_CLASSES + 1, generator=generator)
    return mask_prediction(class_logits, masks, sizes, topk=30, **options)


def values_prediction(result_maker, output_size, *, count=12, seed=0):
    """As of Panoptic SegFormer: values that exceed 1, and exact zeros."""
    generator = torch.Generator().manual_seed(seed)
    masks = blobs(count, (16, 21), seed, scale=1.5).relu()
    labels = torch.arange(count) % NUM_CLASSES
    return relu_mask_prediction(
        torch.rand(count, generator=generator),
        labels,
        masks,
        torch.rand(count, 4, generator=generator) if seed % 2 else None,
        output_size=output_size,
        num_classes=NUM_CLASSES,
        result_maker=result_maker,
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", SIZES)
def test_logits(strategy, name, one_pass):
    result_maker = maker(strategy)
    prediction = logits_prediction(SIZES[name])
    expected = result_maker(prediction)
    assert_compact_equals(result_maker.compact(prediction), expected)
    if name == "enlarged":
        assert len(expected["panoptic_seg"][1]) > 2 and len(expected["instances"]) == 30


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("semantic_on", [True, False])
def test_values(strategy, seed, semantic_on):
    result_maker = maker(strategy, topk_per_image=4, semantic_on=semantic_on)
    prediction = values_prediction(result_maker, (150, 201), seed=seed)
    expected = result_maker(prediction)
    assert expected["panoptic_seg"][1] and len(expected["instances"]) == 4
    assert_compact_equals(result_maker.compact(prediction), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_precisions(strategy, dtype):
    # A half's semantic scores are too coarse to be compared to 1e-6.
    result_maker = maker(strategy, semantic_on=dtype == torch.float64)
    prediction = logits_prediction(SIZES["enlarged"], dtype=dtype)
    assert_compact_equals(result_maker.compact(prediction), result_maker(prediction))


@pytest.mark.parametrize("name", SIZES)
def test_semantic_scores_that_are_resized(name):
    result_maker = maker("mask2former", instance_on=False, panoptic_on=False)
    prediction = logits_prediction(SIZES[name], resize_scores=True)
    assert_compact_equals(result_maker.compact(prediction), result_maker(prediction))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("wanted", ["semantic_on", "instance_on", "panoptic_on"])
def test_one_result(strategy, wanted, one_pass):
    switches = dict.fromkeys(("semantic_on", "instance_on", "panoptic_on"), False)
    result_maker = maker(strategy, **(switches | {wanted: True}))
    for prediction in (
        logits_prediction(SIZES["enlarged"]),
        values_prediction(result_maker, (150, 201)),
    ):
        assert_compact_equals(result_maker.compact(prediction), result_maker(prediction))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_panoptic_result_alone_has_scores(strategy):
    prediction = logits_prediction(SIZES["enlarged"])
    ids, segments = maker(strategy, semantic_on=False).compact_panoptic(prediction)
    expected_ids, expected = maker(strategy).compact(prediction)["panoptic_seg"]
    assert torch.equal(ids, expected_ids)
    assert segments == expected and all("score" in segment for segment in segments)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing(strategy):
    """No query, no class above the thresholds, no pixel in a mask."""
    result_maker = maker(strategy)
    sizes = SIZES["enlarged"]
    empty = logits_prediction(sizes, count=2).masks.new_full((3, 16, 24), -9.0)
    certain = torch.tensor([9.0] + [0.0] * NUM_CLASSES).expand(3, -1)
    for prediction in (
        logits_prediction(sizes, count=0),
        mask_prediction(torch.zeros(3, NUM_CLASSES + 1), empty, sizes, topk=5),
        mask_prediction(certain, empty, sizes, topk=5),
        values_prediction(result_maker, (150, 201), count=0),
    ):
        found = result_maker.compact(prediction)
        assert_compact_equals(found, result_maker(prediction))
        assert not found["panoptic_seg"][0].any() and found["panoptic_seg"][1] == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ties(strategy):
    """Equal masks and scores: the first one wins, in both forms."""
    result_maker = maker(strategy)
    masks = blobs(3, (16, 24), 0).repeat(2, 1, 1)
    masks[0, 4:9] = 0  # sigmoid 0.5, at the threshold
    class_logits = torch.zeros(6, NUM_CLASSES + 1)
    class_logits[:, 1] = 3
    prediction = mask_prediction(class_logits, masks, SIZES["enlarged"], topk=20)
    assert_compact_equals(result_maker.compact(prediction), result_maker(prediction))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [1, 12])
def test_nan_does_not_fail(strategy, count):
    result_maker = maker(strategy)
    prediction = logits_prediction(SIZES["enlarged"], count=12)
    prediction.masks[:count] = float("nan")
    found = result_maker.compact(prediction)
    ids, segments = found["panoptic_seg"]
    assert set(ids.unique().tolist()) - {0} == {segment["id"] for segment in segments}
    assert len(found["instances"]) == len(prediction.instances.masks)


@pytest.mark.parametrize("num_classes, dtype", [(256, torch.uint8), (257, torch.int16)])
def test_type_of_the_class_map(monkeypatch, num_classes, dtype):
    monkeypatch.setitem(compact.WINDOW_BYTES, "cpu", 1 << 22)
    masks = blobs(2, (16, 24), 0)
    logits = torch.zeros(2, num_classes + 1)
    logits[0, num_classes - 1] = logits[1, 3] = 9
    prediction = mask_prediction(logits, masks, SIZES["enlarged"], topk=1)
    labels = maker("mask2former").compact(prediction)["semantic_map"]
    assert labels.dtype == dtype and num_classes - 1 in labels


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operator makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_tensor_is_larger_than_a_map(strategy):
    height, width = output_size = 200, 301
    result_maker = maker(strategy)
    prediction = logits_prediction(((64, 96), (61, 83), output_size), count=20)
    with LargestTensor() as largest:
        result_maker.compact(prediction)
    assert largest.bytes <= 4 * height * width


def test_ordinary_results_hold_no_resized_logits_either(monkeypatch, one_pass):
    monkeypatch.setattr("segcore.inference.one_pass._PIXELS", 1 << 12)
    height, width = output_size = 300, 401
    prediction = logits_prediction(((64, 96), (61, 83), output_size), count=20)
    with LargestTensor() as largest:
        maker("mask2former", instance_on=False)(prediction)
    assert largest.bytes <= 8 * height * width * 4  # the semantic scores of 7 classes
    with LargestTensor() as largest:
        maker("mask2former", instance_on=False, semantic_on=False)(prediction)
    assert largest.bytes <= 4 * height * width
