"""Comparison of compact results with those in Detectron2's form."""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch


def assert_compact_equals(compact: dict[str, Any], expected: dict[str, Any]) -> None:
    """Maps, masks, classes and boxes are equal, scores to 1e-6."""
    names = {"sem_seg": "semantic_map"}
    assert set(compact) == {names.get(name, name) for name in expected}
    if "sem_seg" in expected:
        labels = compact["semantic_map"]
        assert not labels.dtype.is_floating_point
        assert torch.equal(labels.long(), expected["sem_seg"].argmax(dim=0))
    if "panoptic_seg" in expected:
        _compare_panoptic(compact["panoptic_seg"], *expected["panoptic_seg"], expected)
    if "instances" in expected:
        _compare_instances(compact["instances"], expected["instances"])


def _compare_panoptic(compact, ids, segments, expected) -> None:
    compact_ids, compact_segments = compact
    assert compact_ids.dtype == ids.dtype == torch.int32
    assert torch.equal(compact_ids, ids)
    assert len(compact_segments) == len(segments)
    for found, segment in zip(compact_segments, segments, strict=True):
        found, segment = dict(found), dict(segment)
        score, expected_score = found.pop("score", None), segment.pop("score", None)
        if expected_score is None and "sem_seg" in expected:
            # The tensor form leaves it to the reader.
            pixels = expected["sem_seg"][segment["category_id"]][ids == segment["id"]]
            expected_score = pixels.double().mean().clamp(max=1).item()
        assert found == segment
        if expected_score is None:
            assert score is None
        else:
            assert abs(score - expected_score) < 1e-6


def _compare_instances(found, expected) -> None:
    assert found.image_size == expected.image_size and len(found) == len(expected)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=0)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    for run_lengths, mask in zip(found.pred_masks_rle, expected.pred_masks, strict=True):
        encoded = mask_util.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert run_lengths["counts"] == encoded["counts"]
        assert list(run_lengths["size"]) == list(encoded["size"])
