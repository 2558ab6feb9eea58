"""The criterion: what the losses are, and what it does at the edges."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from panoptic_segformer.criterion import PanopticSegFormerCriterion, build_criterion
from panoptic_segformer.location_decoder import LocationOutput
from panoptic_segformer.location_kinds import BoxLocation, CenterLocation
from panoptic_segformer_inputs import (
    LAYERS,
    MASK_SIZE,
    QUERIES,
    STUFF_BLOCKS,
    THING_BLOCKS,
    collected,
    location_of,
    stuff_of,
    target_of,
    targets_of,
    thing_masks_of,
)
from segcore.config import get_cfg

COUNTS = [((3, 2), (2, 1)), ((0, 4), (0, 3)), ((1, 0), (1, 0)), ((0, 0), (2, 2)), ((0, 0), (0, 0))]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def outputs_of(targets, **options):
    """Arguments of the criterion, match included, for its defaults."""
    location = location_of(**options)
    match = PanopticSegFormerCriterion().match(location, collected(targets))
    num = max(len(kept) for kept in match.matched_queries)
    return location, match, thing_masks_of(num, **options), *stuff_of(**options)


def leaves_of(outputs) -> list[torch.Tensor]:
    location, _, *others = outputs
    return [*location.logits, *location.boxes, *(tensor for part in others for tensor in part)]


def dice(mask, true):
    """2 x upsampled ``mask`` (h, w) against ``true`` (H, W)."""
    size = (2 * mask.shape[0], 2 * mask.shape[1])
    mask, true = (
        F.interpolate(m.double()[None, None], size, mode="bilinear")[0, 0] for m in (mask, true)
    )
    smoothed = mask.square().sum() + 1e-6 + true.square().sum() + 1e-6
    return 1 - 2 * (mask * true).sum() / smoothed


def image_by_image(criterion, outputs, targets) -> dict[str, torch.Tensor]:
    """The losses as specified: one layer, one image and one pair after the other."""
    location, match, thing_masks, stuff_masks, stuff_logits = outputs
    things = max(sum(len(kept) for kept in match.matched_queries), 1)
    stuff = max(sum(len(target.stuff_labels) for target in targets), 1)
    thing_weight, stuff_weight = things / (things + stuff), stuff / (things + stuff)
    losses = {}

    def add(name, value, divisor, weight):
        losses[name] = losses.get(name, 0.0) + value / divisor * weight

    for layer in range(LAYERS):
        prefix = "" if layer == LAYERS - 1 else f"d{layer}."
        location_layer = LocationOutput(
            [location.logits[layer]], [location.boxes[layer]], location.queries
        )
        for image, target in enumerate(targets):
            alone = LocationOutput(
                *([part[0][image : image + 1]] for part in location_layer[:2]), location.queries
            )
            pairs = criterion.match(alone, collected([target])).assignment
            query, index = pairs.query[0], pairs.target[0]
            classes = torch.zeros_like(alone.logits[0][0])
            classes[query, target.labels[index]] = 1
            focal = sigmoid_focal_loss(alone.logits[0][0], classes, reduction="sum")
            boxes, true = alone.boxes[0][0, query], target.boxes[index].double()
            height, width = target.image_size
            scale = torch.tensor([width, height, width, height])
            corners = (box_convert(part, "cxcywh", "xyxy") * scale for part in (boxes, true))
            giou_loss = generalized_box_iou_loss(*corners, reduction="sum", eps=0)
            add(f"{prefix}loss_cls", 2 * focal, things, thing_weight)
            add(f"{prefix}loss_bbox", 5 * (boxes - true).abs().sum(), things, thing_weight)
            add(f"{prefix}loss_iou", 2 * giou_loss, things, thing_weight)

    true_masks = [target.masks.double() for target in targets]
    resized = [F.interpolate(m[:, None], MASK_SIZE, mode="bilinear")[:, 0] for m in true_masks]
    image, row, target = criterion.matcher.match_masks(match, thing_masks[-1], resized)
    all_true = torch.cat(true_masks)
    for block in range(THING_BLOCKS + 1):
        name = "loss_mask_things" if block == THING_BLOCKS else f"d{block}.loss_mask_things_f"
        losses[name] = torch.zeros(())
        for i, r, t in zip(image[0], row[0], target[0], strict=True):
            add(name, 2 * dice(thing_masks[block][i, r], all_true[t]), things, thing_weight)

    for block in range(STUFF_BLOCKS):
        last = block == STUFF_BLOCKS - 1
        name = "loss_mask_stuff" if last else f"d{block}.loss_mask_stuff_f"
        losses[name] = torch.zeros(())
        for image, target in enumerate(targets):
            for label, true in zip(target.stuff_labels, target.stuff_masks, strict=True):
                loss = dice(stuff_masks[block][image, label], true)
                add(name, 2 * loss, stuff, stuff_weight)
            if not last:
                logits = stuff_logits[block][image]
                present = torch.zeros_like(logits)
                present[target.stuff_labels] = 1
                focal = sigmoid_focal_loss(logits, present, reduction="sum")
                add(f"d{block}.loss_cls_stuff_f", 4 * focal, stuff, stuff_weight)
    return losses


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_all_together_equals_one_after_the_other(counts):
    criterion, targets = PanopticSegFormerCriterion(), targets_of(*counts)
    outputs = outputs_of(targets)
    together = criterion(*outputs, collected(targets))
    alone = image_by_image(criterion, outputs, targets)
    assert together.keys() == alone.keys()
    for name, value in together.items():
        assert value.shape == () and value.dtype == torch.float64
        torch.testing.assert_close(value, alone[name].to(value), msg=name)

    leaves = leaves_of(outputs)
    ours = torch.autograd.grad(sum(together.values()), leaves)  # every leaf takes part
    theirs = torch.autograd.grad(
        sum(alone.values()), leaves, allow_unused=True, materialize_grads=True
    )
    for gradient, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_official_names():
    targets = targets_of((3, 2), (2, 1))
    losses = PanopticSegFormerCriterion()(*outputs_of(targets), collected(targets))
    location = {
        prefix + name
        for prefix in ("", "d0.", "d1.")
        for name in ("loss_cls", "loss_bbox", "loss_iou")
    }
    blocks = {f"d{i}.{name}_f" for i in (0, 1) for name in ("loss_mask_things", "loss_mask_stuff")}
    stuff = {"d0.loss_cls_stuff_f", "d1.loss_cls_stuff_f"}
    assert losses.keys() == location | blocks | stuff | {"loss_mask_things", "loss_mask_stuff"}


def test_a_batch_is_the_sum_of_its_images():
    """Up to the common divisor, which is the number of things and stuff of all."""
    criterion, targets = PanopticSegFormerCriterion(), targets_of((3, 2), (2, 1))
    location, match, *masks = outputs_of(targets)
    together = criterion(location, match, *masks, collected(targets))
    parts = []
    for image, (target, kept) in enumerate(zip(targets, match.matched_queries, strict=True)):

        def of(tensors, image=image, rows=None):
            return [tensor[image : image + 1, :rows] for tensor in tensors]

        alone = LocationOutput(of(location.logits), of(location.boxes), location.queries)
        things, *stuff = masks
        parts.append(
            criterion(
                alone,
                criterion.match(alone, collected([target])),
                of(things, rows=len(kept)),
                *map(of, stuff),
                collected([target]),
            )
        )
    for name, value in together.items():
        expected = (5 * parts[0][name] + 3 * parts[1][name]) / 8
        torch.testing.assert_close(value, expected)


def test_rows_beyond_the_matched_do_not_matter():
    criterion, targets = PanopticSegFormerCriterion(), targets_of((3, 1), (1, 1))
    location, match, thing_masks, *stuff = outputs_of(targets)
    losses = criterion(location, match, thing_masks, *stuff, collected(targets))
    with torch.no_grad():
        for masks in thing_masks:
            masks[1, 1:] = torch.nan
    again = criterion(location, match, thing_masks, *stuff, collected(targets))
    for name, value in again.items():
        assert torch.equal(value, losses[name])
    sum(again.values()).backward()
    assert all(masks.grad.isfinite().all() for masks in thing_masks)


@pytest.mark.parametrize(
    ("things", "without_stuff_classes"), [((0, 0), True), ((0, 1), False)], ids=str
)
def test_official_empty_things(things, without_stuff_classes):
    targets = targets_of(things, (2, 1))
    outputs = outputs_of(targets)
    ours = PanopticSegFormerCriterion()(*outputs, collected(targets))
    official = PanopticSegFormerCriterion(official_empty_things=True)(*outputs, collected(targets))
    for name, value in official.items():
        dropped = without_stuff_classes and "cls_stuff" in name
        assert value == (0 if dropped else ours[name]), name
    sum(official.values()).backward()
    assert all(leaf.grad is not None for leaf in leaves_of(outputs))


def test_more_things_than_queries():
    criterion, targets = PanopticSegFormerCriterion(), targets_of((QUERIES + 3, 2), (1, 1))
    outputs = outputs_of(targets)
    assert [len(kept) for kept in outputs[1].matched_queries] == [QUERIES, 2]
    losses = criterion(*outputs, collected(targets))
    for name, value in image_by_image(criterion, outputs, targets).items():
        torch.testing.assert_close(losses[name], value)  # divided by the pairs, not the things


def test_perfect_prediction_has_no_loss():
    masks = torch.zeros(2, 40, 56, dtype=torch.bool)
    masks[0, :16], masks[1, 16:] = True, True
    target = replace(target_of(2, 1), masks=masks, stuff_masks=masks[:1])
    logits = torch.full((1, 5, 4), -20.0)
    boxes = torch.full((1, 5, 4), 0.4)
    for query, thing in ((3, 0), (1, 1)):
        logits[0, query, target.labels[thing]] = 20
        boxes[0, query] = target.boxes[thing]
    location = LocationOutput([logits] * 3, [boxes] * 3, torch.zeros(1, 5, 8))
    criterion = PanopticSegFormerCriterion()
    match = criterion.match(location, collected([target]))
    assert match.matched_queries[0].tolist() == [1, 3]
    masks = F.interpolate(masks[None].float(), (20, 28), mode="bilinear")
    stuff_logits = torch.full((1, 3), -20.0)
    stuff_logits[0, target.stuff_labels] = 20
    stuff_masks = torch.rand(1, 3, 20, 28)
    stuff_masks[0, target.stuff_labels] = masks[0, :1]
    losses = criterion(
        location,
        match,
        [masks.flip(1)] * 2,
        [stuff_masks] * 2,
        [stuff_logits],
        collected([target]),
    )
    for name, value in losses.items():
        assert value < (0.02 if "mask" in name else 1e-4), name  # masks differ by interpolation


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(dtype):
    criterion = PanopticSegFormerCriterion()
    targets = targets_of((3, 2), (2, 1), dtype=torch.float32)
    location, match, *masks = outputs_of(targets, dtype=torch.float32)
    half = [[tensor.to(dtype) for tensor in part] for part in (location.logits, *masks)]
    location = LocationOutput(half[0], location.boxes, location.queries.to(dtype))
    exact = criterion(
        location._replace(logits=[part.float() for part in half[0]]),
        match,
        *([tensor.float() for tensor in part] for part in half[1:]),
        collected(targets),
    )
    with torch.autocast("cpu", torch.bfloat16):
        again = criterion.match(location, collected(targets))
        losses = criterion(location, again, *half[1:], collected(targets))
    for ours, theirs in zip(again.assignment, match.assignment, strict=True):
        assert ours.shape == theirs.shape
    assert all(cost.dtype == torch.float32 for parts in again.costs for cost in parts.values())
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=1e-5, atol=1e-6)


def test_centers_instead_of_boxes():
    criterion = PanopticSegFormerCriterion(CenterLocation())
    targets = targets_of((3, 0), (2, 1))
    location = location_of(coordinates=2)
    match = criterion.match(location, collected(targets))
    losses = criterion(location, match, thing_masks_of(3), *stuff_of(), collected(targets))
    assert {"loss_centre", "d0.loss_centre"} < losses.keys()
    assert not any("bbox" in name or "iou" in name for name in losses)
    image, query, target = (part[-1] for part in match.assignment)
    distance = location.boxes[-1][image, query] - match.locations[target]
    torch.testing.assert_close(losses["loss_centre"], 5 * distance.abs().sum() / (3 + 3))
    torch.autograd.grad(sum(losses.values()), location.boxes)


@pytest.mark.parametrize(("others", "divisor"), [((0, 0), 4), ((5, 1), 7), ((11, 13), 16)])
def test_divisors_are_means_over_workers(monkeypatch, others, divisor):
    """Five things and three stuff here, ``others`` on the second of two workers."""
    criterion, targets = PanopticSegFormerCriterion(), targets_of((3, 2), (2, 1))
    outputs = outputs_of(targets)
    alone = criterion(*outputs, collected(targets))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.add_(torch.tensor(others)))
    for name, value in criterion(*outputs, collected(targets)).items():
        torch.testing.assert_close(value, 8 / divisor * alone[name])


def test_targets_of_another_batch():
    criterion, targets = PanopticSegFormerCriterion(), targets_of((1,), (1,))
    with pytest.raises(ValueError, match="expected those of 2 images, got 1"):
        criterion.match(location_of(), collected(targets))


def test_build_from_config():
    cfg = get_cfg()
    panoptic_segformer = cfg.MODEL.PANOPTIC_SEGFORMER
    criterion = build_criterion(cfg)
    assert criterion.location_kind == BoxLocation(l1_weight=5, giou_weight=2)
    assert criterion.class_weight == criterion.dice_weight == 2
    assert not criterion.official_empty_things and not criterion.state_dict()
    panoptic_segformer.GIOU_WEIGHT = 3.0
    panoptic_segformer.OFFICIAL_EMPTY_THINGS = True
    criterion = build_criterion(cfg)
    assert criterion.location_kind == criterion.matcher.location_kind == BoxLocation(giou_weight=3)
    assert criterion.official_empty_things
    panoptic_segformer.LOCATION_TARGET = "centre"
    assert build_criterion(cfg).location_kind == CenterLocation()
