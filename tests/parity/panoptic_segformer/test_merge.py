"""From given class logits, boxes and masks to panoptic and instance results."""

import torch

from panoptic_segformer.postprocess import absolute_boxes, choose_things, mask_prediction
from parity.golden import parametrize_cases
from parity.panoptic_segformer.results import official_maps
from segcore.inference import PanopticMerging, ResultMaker


def build_result_maker(config: dict, num_things: int) -> ResultMaker:
    pairs = {
        f"{kind}_thresholds": tuple(config[f"{kind}_threshold_{of}"] for of in ("things", "stuff"))
        for kind in ("quality", "overlap")
    }
    options = {key: config[key] for key in ("mask_threshold", "class_exponent", "mask_exponent")}
    return ResultMaker(
        thing_ids=range(num_things),
        merging=PanopticMerging("mask_wise", **pairs, **options),
        topk_per_image=config["max_detections"],
    )


def segments_of(categories, numbers) -> set[tuple[int, int]]:
    return set(zip(categories.ravel().tolist(), numbers.ravel().tolist(), strict=True))


@parametrize_cases("panoptic_segformer", "merge_")
def test_merge(case, comparison):
    arrays, config, tolerance = case.arrays, case.config, case.info["tolerance"]
    logits, boxes, thing_masks, stuff_logits, stuff_masks = (
        torch.from_numpy(arrays[f"in_{name}"]).double()
        for name in (
            "thing_class_logits",
            "boxes",
            "thing_masks",
            "stuff_class_logits",
            "stuff_masks",
        )
    )
    num_things = logits.shape[1]
    num_classes = num_things + len(stuff_masks)
    things = choose_things(logits, config["max_detections"])
    comparison.equal("topk_query", things.queries, arrays["topk_query"])
    comparison.equal("topk_label", things.labels, arrays["topk_label"])
    output_size = tuple(config["original_size"])
    found = absolute_boxes(boxes[things.queries], output_size)
    expected = arrays["topk_box_score"]
    comparison.close("topk_box", found, expected[:, :4], tolerance["boxes"])
    comparison.close("topk_score", things.scores, expected[:, 4], tolerance["scores"])

    result_maker = build_result_maker(config, num_things)
    prediction = mask_prediction(
        torch.cat((things.scores, stuff_logits.sigmoid())),
        torch.cat((things.labels, torch.arange(num_things, num_classes))),
        torch.cat((thing_masks[things.queries], stuff_masks)),
        boxes[things.queries],
        output_size=output_size,
        num_classes=num_classes,
        result_maker=result_maker,
    )
    results = result_maker(prediction)
    categories, numbers = official_maps(*results["panoptic_seg"])
    expected = arrays["panoptic_category"], arrays["panoptic_instance"]
    allowed = int(0.001 * categories.size)
    comparison.equal("panoptic_category", categories, expected[0], allowed=allowed)
    comparison.equal("panoptic_instance", numbers, expected[1], allowed=allowed)
    assert segments_of(categories, numbers) == segments_of(*expected)

    instances = results["instances"]
    expected = arrays["instance_box_score"]
    comparison.close("instance_score", instances.scores, expected[:, 4], tolerance["scores"])
    positive = expected[:, 4] > 0  # the others tie
    found = {
        "label": instances.pred_classes,
        "area": instances.pred_masks.sum(dim=(1, 2)),
    }
    for name, values in found.items():
        comparison.equal(f"instance_{name}", values[positive], arrays[f"instance_{name}"][positive])
    comparison.close(
        "instance_box",
        instances.pred_boxes.tensor[positive],
        expected[positive, :4],
        tolerance["boxes"],
    )
    comparison.check()
