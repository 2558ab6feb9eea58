"""Test-time augmentation of semantic segmentation."""

import torch
from torch import nn

from segcore.config import get_cfg
from segcore.evaluation import SemanticSegmentorWithTTA


class Recorder(nn.Module):
    """Scores that are the red and green values of the image, at the size of the output."""

    def __init__(self):
        super().__init__()
        self.widths = []

    def forward(self, batched_inputs):
        (record,) = batched_inputs
        image = record["image"].float()
        self.widths.append(image.shape[-1])
        size = (record["height"], record["width"])
        return [{"sem_seg": nn.functional.interpolate(image[None, :2], size)[0]}]


def config(min_sizes, flip):
    cfg = get_cfg()
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = min_sizes, 100, flip
    return cfg


def photo():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8, generator=generator)
    return {"image": image, "height": 8, "width": 12}


def test_flipped_results_are_flipped_back():
    record = photo()
    model = SemanticSegmentorWithTTA(config([8], True), Recorder())
    (result,) = model([record])
    assert torch.equal(result["sem_seg"], record["image"][:2].float())


def test_mean_over_sizes():
    record, recorder = photo(), Recorder()
    versions = []
    recorder.register_forward_hook(lambda module, inputs, output: versions.append(output[0]))
    (result,) = SemanticSegmentorWithTTA(config([8, 16], False), recorder)([record])
    assert recorder.widths == [12, 24]
    single = [
        SemanticSegmentorWithTTA(config([size], False), Recorder())([record])[0]["sem_seg"]
        for size in (8, 16)
    ]
    torch.testing.assert_close(result["sem_seg"], (single[0] + single[1]) / 2)


def test_several_images_keep_their_order():
    first, second = photo(), photo()
    second["image"] = 255 - second["image"]
    results = SemanticSegmentorWithTTA(config([8], True), Recorder())([first, second])
    assert torch.equal(results[0]["sem_seg"], first["image"][:2].float())
    assert torch.equal(results[1]["sem_seg"], second["image"][:2].float())
