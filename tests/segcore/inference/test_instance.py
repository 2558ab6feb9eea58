import torch

from segcore.inference.instance import sorted_instances


def test_sorted_instances():
    masks = torch.eye(3).bool()[:, None]
    boxes = torch.arange(16.0).view(4, 4)
    scores, classes = torch.tensor([0.2, 0.9, 0.2, 0.5]), torch.tensor([4, 5, 6, 7])
    sources = torch.tensor([2, 0, 1, 0])
    instances = sorted_instances(scores, classes, masks, boxes, sources, topk=3)
    assert instances.image_size == (1, 3)
    assert instances.pred_classes.tolist() == [5, 7, 4]  # equal scores in the order given
    assert torch.equal(instances.pred_masks, masks[[0, 0, 2]])
    assert torch.equal(instances.pred_boxes.tensor, boxes[[1, 3, 0]])
    instances = sorted_instances(scores[:3], classes[:3], masks, boxes[:3])
    assert torch.equal(instances.pred_masks, masks[[1, 0, 2]])
