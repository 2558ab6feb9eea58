"""Targets: of one image from its annotations, and of a batch."""

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from panoptic_segformer.class_order import ClassOrder
from panoptic_segformer.targets import Target, Targets
from panoptic_segformer_inputs import PADDED_SIZE, collected, targets_of

ORDER = ClassOrder(5, [1, 2, 4])


def annotated(labels=(4, 0, 1, 3, 0), boxes=True):
    masks = torch.zeros(len(labels), 20, 40, dtype=torch.bool)
    for i, mask in enumerate(masks):
        mask[2 * i : 2 * i + 4, 5 : 15 + i] = True
    instances = Instances((20, 40))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    instances.gt_masks = BitMasks(masks)
    if boxes:
        instances.gt_boxes = Boxes(torch.tensor([[4.0, 2, 24, 12]]).repeat(len(labels), 1))
    return {"image": torch.zeros(3, 20, 40), "instances": instances, "file_name": "a.jpg"}


def test_things_and_stuff_in_the_order_of_the_network():
    inputs = annotated()
    masks = inputs["instances"].gt_masks.tensor
    target = Target.from_annotations(inputs, ORDER, torch.float64)
    assert target.labels.tolist() == [2, 0] and target.stuff_labels.tolist() == [0, 1]
    assert torch.equal(target.masks, masks[[0, 2]])
    # Two segments of one stuff class are one.
    assert torch.equal(target.stuff_masks, torch.stack((masks[1] | masks[4], masks[3])))
    assert target.image_size == (20, 40)
    expected = torch.tensor([[14 / 40, 7 / 20, 20 / 40, 10 / 20]] * 2, dtype=torch.float64)
    torch.testing.assert_close(target.boxes, expected)


def test_boxes_of_masks():
    target = Target.from_annotations(annotated(boxes=False), ORDER, torch.float32)
    expected = torch.tensor([[10 / 40, 2 / 20, 10 / 40, 4 / 20], [11 / 40, 0.3, 12 / 40, 0.2]])
    torch.testing.assert_close(target.boxes, expected)


def test_no_annotations():
    target = Target.from_annotations(annotated(labels=()), ORDER, torch.float32)
    assert target.boxes.shape == (0, 4) and target.stuff_masks.shape == (0, 20, 40)


def test_half_precision_keeps_boxes_exact():
    assert Target.from_annotations(annotated(), ORDER, torch.bfloat16).boxes.dtype == torch.float32


def test_batch():
    targets = targets_of((2, 0, 3), (1, 0, 2))
    things, stuff = collected(targets)
    assert things.counts == [2, 0, 3] and things.image.tolist() == [0, 0, 2, 2, 2]
    assert things.scale.tolist() == [[55, 36, 55, 36]] * 2 + [[54, 38, 54, 38]] * 3
    assert things.boxes.dtype == things.scale.dtype == torch.float64
    assert torch.equal(things.labels, torch.cat([target.labels for target in targets]))
    assert stuff.image.tolist() == [0, 2, 2]
    assert torch.equal(stuff.labels, torch.cat([target.stuff_labels for target in targets]))
    masks = [*things.masks, *stuff.masks]
    assert [len(of_image) for of_image in masks] == [2, 0, 3, 1, 0, 2]
    assert {tuple(of_image.shape[1:]) for of_image in masks} == {PADDED_SIZE}


def test_padding():
    things, stuff = Targets.collect([Target.from_annotations(annotated(), ORDER)], (24, 40))
    assert things.masks[0].shape == (2, 24, 40) and not things.masks[0][:, 20:].any()
    assert stuff.masks[0].shape == (2, 24, 40)


def test_bad_annotations_name_the_image():
    inputs = annotated()
    inputs["instances"].gt_boxes = torch.zeros(5, 3)
    with pytest.raises(ValueError, match=r"a.jpg: gt_boxes: expected shape \(5, 4\), got \(5, 3\)"):
        Target.from_annotations(inputs, ORDER, torch.float32)
    with pytest.raises(ValueError, match=r"a.jpg: gt_classes: expected labels in \[0, 5\)"):
        Target.from_annotations(annotated(labels=(5,)), ORDER, torch.float32)
