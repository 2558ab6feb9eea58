import pytest
import torch

from panoptic_segformer.postprocess import (
    DEFAULT_MERGING,
    absolute_boxes,
    build_result_maker,
    choose_things,
    mask_prediction,
)
from segcore.config import get_cfg
from segcore.inference import PanopticMerging, ResultMaker
from segcore.inference.merging import STRATEGIES

# Things and stuff interleaved.
THINGS, STUFF = [1, 3], [0, 2, 4]
OUTPUT = 100, 141


def result_maker(merging=DEFAULT_MERGING, topk_per_image=100, **options):
    return ResultMaker(merging, frozenset(THINGS), topk_per_image, **options)


def outputs(num_things=6, size=(8, 11), seed=0):
    """Scores, labels, masks, boxes."""
    torch.manual_seed(seed)
    labels = [*([1, 3] * num_things)[:num_things], *STUFF]
    coarse = torch.randn(1, len(labels), 4, 5)
    masks = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0].relu()
    return torch.rand(len(labels)), torch.tensor(labels), masks, torch.rand(num_things, 4)


def predict(maker, *arguments):
    return mask_prediction(*arguments, output_size=OUTPUT, num_classes=5, result_maker=maker)


def run(maker, *arguments):
    return maker(predict(maker, *arguments))


def test_largest_scores_of_all_pairs():
    logits = torch.tensor([[[0.0, 3.0], [2.0, -1.0]], [[1.0, -2.0], [-3.0, 4.0]]])
    things = choose_things(logits, 3)
    assert things.queries.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert things.labels.tolist() == [[1, 0, 0], [1, 0, 1]]
    torch.testing.assert_close(things.scores[0], torch.tensor([3.0, 2.0, 0.0]).sigmoid())
    assert choose_things(logits[0], 100).scores.shape == (4,)  # fewer than asked for
    assert choose_things(torch.zeros(7, 0), 100).queries.shape == (0,)  # no thing class


def test_boxes_stay_inside():
    boxes = torch.tensor([[0.5, 0.25, 0.2, 0.5], [0.9, 0.9, 1.0, 0.4]])
    expected = torch.tensor([[40.0, 0.0, 60.0, 25.0], [40.0, 35.0, 100.0, 50.0]])
    torch.testing.assert_close(absolute_boxes(boxes, (50, 100)), expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_results_in_detectron2_format(strategy):
    merging = PanopticMerging(strategy, score_threshold=0.1, quality_thresholds=(0.1, 0.1))
    results = run(result_maker(merging=merging), *outputs())
    assert results["sem_seg"].shape == (5, *OUTPUT)
    panoptic, segments = results["panoptic_seg"]
    assert panoptic.shape == OUTPUT and segments
    assert set(panoptic.unique().tolist()) - {0} == {segment["id"] for segment in segments}
    assert all(segment["isthing"] == (segment["category_id"] in THINGS) for segment in segments)
    instances = results["instances"]
    assert instances.image_size == OUTPUT and len(instances) == 6
    assert instances.pred_masks.shape == (6, *OUTPUT)
    assert (instances.scores.diff() <= 0).all()
    assert set(instances.pred_classes.tolist()) <= set(THINGS)


def test_instances_have_their_own_boxes_and_masks():
    scores, labels, masks, boxes = outputs()
    instances = run(result_maker(topk_per_image=4), scores, labels, masks, boxes)["instances"]
    assert len(instances) == 4
    resized = torch.nn.functional.interpolate(masks[None], OUTPUT, mode="bilinear")[0]
    rated = PanopticMerging("mask_wise").rate(scores, resized)
    order = rated.scores[:6].argsort(descending=True)[:4]
    torch.testing.assert_close(instances.scores, rated.scores[order])
    assert torch.equal(instances.pred_masks, rated.binary[order])
    torch.testing.assert_close(instances.pred_boxes.tensor, absolute_boxes(boxes[order], OUTPUT))

    instances = run(result_maker(), scores, labels, masks, None)["instances"]
    rows, columns = instances.pred_masks[0].nonzero().unbind(1)
    tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert instances.pred_boxes.tensor[0].tolist() == [int(edge) for edge in tight]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("instance_on", [True, False])
def test_results_do_not_depend_on_what_else_is_wanted(strategy, instance_on):
    everything = result_maker(merging=PanopticMerging(strategy))
    some = result_maker(
        merging=PanopticMerging(strategy), semantic_on=False, instance_on=instance_on
    )
    for seed in range(4):
        arguments = outputs(seed=seed)
        arguments[0][::2] /= 10
        expected, actual = run(everything, *arguments), run(some, *arguments)
        assert set(actual) == {"panoptic_seg"} | ({"instances"} if instance_on else set())
        assert torch.equal(actual["panoptic_seg"][0], expected["panoptic_seg"][0])
        assert actual["panoptic_seg"][1] == expected["panoptic_seg"][1]
        if instance_on:
            for field, value in expected["instances"].get_fields().items():
                found = actual["instances"].get(field)
                if field == "pred_boxes":
                    value, found = value.tensor, found.tensor
                assert torch.equal(found, value)


@pytest.mark.parametrize("wanted", [(True, True), (False, True), (True, False), (False, False)])
def test_no_thing_and_no_stuff(wanted):
    semantic_on, instance_on = wanted
    maker = result_maker(semantic_on=semantic_on, instance_on=instance_on)
    for selected in (slice(0, 0), slice(6, 9), slice(0, 6)):  # nothing, stuff, things
        scores, labels, masks, boxes = outputs()
        scores, labels, masks = scores[selected], labels[selected], masks[selected]
        boxes = boxes[: 6 if selected == slice(0, 6) else 0]
        results = run(maker, scores, labels, masks, boxes)
        assert results["panoptic_seg"][0].shape == OUTPUT
        if instance_on:
            assert len(results["instances"]) == len(boxes)
            assert len(run(maker, scores, labels, masks, None)["instances"]) == len(boxes)


def test_from_config():
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    cfg.TEST.DETECTIONS_PER_IMAGE = 7
    cfg.MODEL.PANOPTIC_SEGFORMER.TEST.SEMANTIC_ON = False
    assert build_result_maker(cfg, THINGS) == result_maker(topk_per_image=7, semantic_on=False)
    cfg.MODEL.PANOPTIC_MERGING.STRATEGY = "pixel_wise"
    assert build_result_maker(cfg, THINGS).merging == PanopticMerging("pixel_wise")
