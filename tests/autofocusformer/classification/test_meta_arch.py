"""The classifier: losses, logits, sizes, initial values."""

import pytest
import torch
import torch.nn.functional as F

from autofocusformer import AutoFocusFormerClassifier
from autofocusformer.classification import BatchAugmentation

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]


def small_classifier(**options) -> AutoFocusFormerClassifier:
    torch.manual_seed(0)
    defaults = {
        "num_classes": 3,
        "pixel_mean": MEAN,
        "pixel_std": STD,
        "embed_dim": (8, 12, 16, 20),
        "depths": (1, 1, 2, 1),
        "num_heads": (2, 2, 4, 4),
        "cluster_size": 4,
        "neighborhood_size": (12, 12, 12, 12),
    }
    return AutoFocusFormerClassifier(**(defaults | options))


def photos(count: int, height: int = 64, width: int = 64) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(
                0, 256, (3, height, width), generator=generator, dtype=torch.uint8
            ),
            "class_id": number % 3,
        }
        for number in range(count)
    ]


def test_logits_of_each_image():
    outputs = small_classifier().eval()(photos(2))
    assert [output["class_logits"].shape for output in outputs] == [(3,), (3,)]


def test_logits_are_those_of_the_normalized_mean_token():
    model = small_classifier().eval()
    images = model.preprocess(photos(2))
    raw = torch.stack([photo["image"] for photo in photos(2)]).float()
    expected = (raw - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(images, expected)
    *_, tokens = model.stages(images)
    normalized = F.layer_norm(tokens.features, (20,))
    expected = F.linear(normalized.mean(1), model.head.weight, model.head.bias)
    torch.testing.assert_close(model.network(images), expected)


def test_loss_is_smoothed_cross_entropy():
    model = small_classifier(label_smoothing=0.1).train()
    loss = model(photos(2))["loss_cls"]
    logits = model.network(model.preprocess(photos(2)))
    targets = 0.9 * torch.eye(3)[:2] + 0.1 / 3
    torch.testing.assert_close(loss, -(targets * logits.log_softmax(1)).sum(1).mean())


def test_loss_takes_what_the_augmentation_gives():
    probabilities = torch.tensor([[0.2, 0.8, 0.0], [0.5, 0.0, 0.5]])
    seen = []

    def augment(images, labels):
        seen.append((images.shape, labels.tolist()))
        return torch.zeros_like(images), probabilities

    model = small_classifier(augmentation=augment, label_smoothing=0.1).train()
    loss = model(photos(2))["loss_cls"]
    logits = model.network(torch.zeros(2, 3, 64, 64))
    torch.testing.assert_close(loss, -(probabilities * logits.log_softmax(1)).sum(1).mean())
    assert seen == [((2, 3, 64, 64), [0, 1])]
    model.eval()(photos(2))
    assert len(seen) == 1


def test_training_with_erasing_and_mixing():
    pytest.importorskip("timm")
    augmentation = BatchAugmentation(num_classes=3, erasing_prob=1.0, mixup_alpha=0.8)
    model = small_classifier(augmentation=augmentation, layer_scale=1e-5, drop_path_rate=0.1)
    model.train()(photos(4))["loss_cls"].backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 50), (70, 21), (4, 4), (1, 1)])
def test_any_size(height, width):
    (output,) = small_classifier().eval()(photos(1, height, width))
    assert output["class_logits"].isfinite().all()


def test_image_is_not_padded():
    """33 x 50 pixels: convolutions of stride 2 give 9 x 13 cells, and so would 36 x 52."""
    model = small_classifier().eval()
    image = photos(1, 33, 50)[0]["image"]
    padded = F.pad(image, (0, 2, 0, 3))
    first, second = (model([{"image": x}])[0]["class_logits"] for x in (image, padded))
    assert not torch.allclose(first, second)


def test_images_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"images of one size.*\(32, 40\), \(64, 64\)"):
        small_classifier()(photos(1) + photos(1, 32, 40))


def test_no_class_is_refused():
    with pytest.raises(ValueError, match=r"num_classes: expected at least 1, got 0"):
        small_classifier(num_classes=0)


def test_initial_values():
    model = small_classifier(embed_dim=(32, 64, 96, 128), num_classes=100)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert not module.bias.any(), name
            if module.weight.numel() > 4000:
                assert abs(module.weight.std() / 0.02 - 1) < 0.05, name
    blank = torch.cat([block.attn.blank_k for stage in model.layers for block in stage.blocks])
    assert abs(blank.std() - 1) < 0.15
    bound = 1 / 27**0.5  # the framework's default for a 3 x 3 convolution of 3 channels
    assert 0.9 * bound < model.patch_embed.proj1.weight.abs().max() <= bound


def test_float64_stays():
    (output,) = small_classifier().double().eval()(photos(1))
    assert output["class_logits"].dtype == torch.float64
