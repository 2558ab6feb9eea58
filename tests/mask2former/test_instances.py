import pytest
import torch
from detectron2.structures import BitMasks

from mask2former.postprocess import mask_prediction
from segcore.inference import PanopticMerging, ResultMaker


def instance_inference(class_logits, mask_logits, *, topk, thing_ids=None):
    size = tuple(mask_logits.shape[1:])
    prediction = mask_prediction(class_logits, mask_logits, (size,), topk=topk, thing_ids=thing_ids)
    maker = ResultMaker(PanopticMerging("mask2former"), (), semantic_on=False, panoptic_on=False)
    return maker(prediction)["instances"]


def random_logits(queries=7, classes=4, dtype=torch.float32):
    torch.manual_seed(0)
    class_logits = torch.randn(queries, classes + 1)
    mask_logits = torch.randn(queries, 6, 5, dtype=dtype)
    mask_logits[0] = -1
    return class_logits, mask_logits


@pytest.mark.parametrize("topk", [1, 10, 28, 100])
@pytest.mark.parametrize("thing_ids", [None, {1, 3}])
def test_equals_plain_choice(topk, thing_ids):
    class_logits, mask_logits = random_logits()
    instances = instance_inference(class_logits, mask_logits, topk=topk, thing_ids=thing_ids)

    pairs = []
    for query, probabilities in enumerate(class_logits.softmax(1)[:, :-1].tolist()):
        for label, probability in enumerate(probabilities):
            pairs.append((probability, query, label))
    expected = []
    for probability, query, label in sorted(pairs, reverse=True)[:topk]:
        if thing_ids is None or label in thing_ids:
            mask = mask_logits[query] > 0
            quality = mask_logits[query].sigmoid()[mask].sum() / (mask.sum() + 1e-6)
            expected.append((probability * quality.item(), label, query))
    expected.sort(reverse=True)

    assert len(instances) == len(expected)
    torch.testing.assert_close(instances.scores, torch.tensor([score for score, *_ in expected]))
    positive = instances.scores > 0  # empty masks tie at zero
    labels = torch.tensor([label for _, label, _ in expected])
    assert torch.equal(instances.pred_classes[positive], labels[positive])
    masks = mask_logits[[query for *_, query in expected]] > 0
    assert torch.equal(instances.pred_masks[positive], masks[positive])


def test_detectron2_format_with_real_boxes():
    instances = instance_inference(*random_logits(), topk=100)
    assert instances.image_size == (6, 5)
    assert instances.pred_masks.dtype == torch.bool
    boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    assert torch.equal(instances.pred_boxes.tensor, boxes.tensor)
    assert (instances.scores.diff() <= 0).all()


def test_no_thing_among_the_chosen():
    instances = instance_inference(*random_logits(), topk=100, thing_ids=())
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 6, 5)
    assert instances.pred_boxes.tensor.shape == (0, 4)


def test_half_counts_many_pixels():
    # 400 x 400 pixels are more than a float16 can count.
    mask_logits = torch.full((1, 400, 400), 20.0, dtype=torch.float16)
    instances = instance_inference(torch.tensor([[9.0, 0.0]]), mask_logits, topk=1)
    torch.testing.assert_close(instances.scores.float(), torch.tensor([1.0]), atol=1e-3, rtol=0)
