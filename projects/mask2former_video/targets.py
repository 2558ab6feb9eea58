"""Targets of a clip: a class and a mask in every frame for each track."""

from typing import Any

import torch
from torch import Tensor

from segcore.layers import pad_to
from segcore.meta_arch import mask_tensor


def clip_target(
    inputs: dict[str, Any], num_classes: int, num_frames: int, device: torch.device
) -> dict[str, Any]:
    """Return "labels" int64 (n,) and "masks", of each frame a bool (n, H, W), on ``device``.

    The label of a track is that of the first frame in which it is seen; tracks that no frame sees
    are dropped. (The official code takes the last frame's, "no object" where it is absent there.)

    Args:
        inputs: "image", a list of T frames (3, H, W), and "instances", a list of T ``Instances``
            with a row for each track: gt_ids (-1: not seen), gt_classes and gt_masks.

    Raises:
        ValueError: the annotations are missing, or do not fit the frames or the classes; names the
            video.
    """
    name = clip_name(inputs)
    frames = inputs.get("instances") or []
    if not len(inputs["image"]) == len(frames) == num_frames:
        raise ValueError(
            f"{name}: expected {num_frames} frames (INPUT.SAMPLING_FRAME_NUM) and as many "
            f"Instances, got {len(inputs['image'])} and {len(frames)}"
        )
    fields = ("gt_ids", "gt_classes", "gt_masks")
    if not all(frame.has(key) for frame in frames for key in fields):
        raise ValueError(
            f"{name}: instances: expected gt_ids, gt_classes and gt_masks of each frame, got "
            f"{sorted(set.intersection(*(set(frame.get_fields()) for frame in frames)))}"
        )
    rows = {len(frame) for frame in frames}
    if len(rows) > 1:
        raise ValueError(f"{name}: instances: expected as many rows in each frame, got {rows}")

    seen = torch.stack([frame.gt_ids >= 0 for frame in frames])
    tracks = seen.any(dim=0)
    first = seen.int().argmax(dim=0)
    labels = torch.stack([frame.gt_classes for frame in frames])
    labels = labels.gather(0, first[None])[0][tracks]
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(
            f"{name}: gt_classes: expected labels in [0, {num_classes}), got "
            f"{sorted(set(outside.tolist()))} (MODEL.SEM_SEG_HEAD.NUM_CLASSES)"
        )
    masks = []
    for image, frame in zip(inputs["image"], frames, strict=True):
        mask = mask_tensor(frame, name)
        expected = (len(frame), *image.shape[-2:])
        if mask.shape != expected:
            raise ValueError(
                f"{name}: gt_masks: expected (rows, height, width) {expected}, "
                f"got {tuple(mask.shape)}"
            )
        masks.append(mask[tracks.to(mask.device)].to(device, torch.bool))
    return {"labels": labels.to(device, torch.int64), "masks": masks}


def pad_frames(target: dict[str, Any], size: tuple[int, int]) -> dict[str, Tensor]:
    """Join the masks of a :func:`clip_target` to (n, T, H, W), padded to ``size`` (H, W)."""
    masks = torch.stack([pad_to(frame, size) for frame in target["masks"]], dim=1)
    return {**target, "masks": masks}


def clip_name(inputs: dict[str, Any]) -> str:
    """Return the name of a video for messages."""
    files = inputs.get("file_names") or ["without name"]
    return f"video {inputs.get('video_id', '')} ({files[0]})"
