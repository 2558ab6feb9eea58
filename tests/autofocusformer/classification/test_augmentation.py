"""Erasing and mixing of normalized batches."""

import pytest
import torch

from autofocusformer.classification import BatchAugmentation
from segcore.engine.randomness import seed_random_generators

pytest.importorskip("timm")

SIZE = 16


@pytest.fixture(autouse=True)
def seed():
    seed_random_generators(0)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Image i has the value i + 1 and the label i."""
    labels = torch.arange(4)
    return (labels + 1.0).view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE).clone(), labels


def test_nothing(batch):
    images, labels = batch
    augmented, targets = BatchAugmentation(num_classes=4)(images.clone(), labels)
    assert torch.equal(augmented, images)
    assert torch.equal(targets, labels)


def test_erased_rectangle_is_noise(batch):
    images, labels = batch
    augmented, targets = BatchAugmentation(num_classes=4, erasing_prob=1.0)(images.clone(), labels)
    changed = (augmented != images).all(1)
    for mask in changed:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns)
        assert 0 < mask.sum() < SIZE * SIZE / 2
    noise = augmented.permute(0, 2, 3, 1)[changed]
    assert abs(noise.mean()) < 0.2
    assert abs(noise.std() - 1) < 0.2
    assert torch.equal(targets, labels)


def test_share_of_erased_images():
    images = torch.zeros(400, 3, SIZE, SIZE)
    augment = BatchAugmentation(num_classes=2, erasing_prob=0.25)
    augmented, _ = augment(images, torch.zeros(400, dtype=torch.int64))
    assert 70 < int((augmented != 0).flatten(1).any(1).sum()) < 130


def test_mixup_mixes_images_like_targets(batch):
    images, labels = batch
    augmented, targets = BatchAugmentation(num_classes=4, mixup_alpha=0.8)(images, labels)
    factor = float(targets[0, 0])
    assert 0 < factor < 1
    expected = factor * torch.eye(4) + (1 - factor) * torch.eye(4).flip(0)
    torch.testing.assert_close(targets, expected)
    values = targets @ torch.arange(1.0, 5.0)
    torch.testing.assert_close(augmented, values.view(-1, 1, 1, 1).expand_as(augmented))


def test_cutmix_replaces_a_rectangle_of_that_share(batch):
    images, labels = batch
    augmented, targets = BatchAugmentation(num_classes=4, cutmix_alpha=1.0)(images, labels)
    for number in range(4):
        share = (augmented[number, 0] == 4 - number).float().mean()
        torch.testing.assert_close(targets[number, 3 - number], share)
        torch.testing.assert_close(targets[number, number], 1 - share)


def test_smoothing_of_mixed_targets(batch):
    augment = BatchAugmentation(num_classes=4, mixup_alpha=0.8, mix_prob=0.0, label_smoothing=0.1)
    _, targets = augment(*batch)
    torch.testing.assert_close(targets, 0.9 * torch.eye(4) + 0.1 / 4)


def test_odd_batch_cannot_be_mixed(batch):
    images, labels = batch
    with pytest.raises(ValueError, match=r"even number of images.*got 3.*IMS_PER_BATCH"):
        BatchAugmentation(num_classes=4, mixup_alpha=0.8)(images[:3], labels[:3])


@pytest.mark.parametrize("options", [{"erasing_prob": 0.5}, {"cutmix_alpha": 1.0}])
def test_missing_timm_names_the_extra(batch, monkeypatch, options):
    monkeypatch.setattr("segcore.requirements.find_spec", lambda name: None)
    BatchAugmentation(num_classes=4)(*batch)  # needs none
    with pytest.raises(ImportError, match=r"panoptic-toolkit\[timm\]"):
        BatchAugmentation(num_classes=4, **options)(*batch)
