"""One training step of the whole model on two clips: targets, losses, assignment, gradients."""

import re

import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from mask2former_video.targets import clip_target, pad_frames
from parity.golden import fill_model, parametrize_cases, z
from parity.mask2former.injected_points import CriterionPoints, matcher_points
from parity.mask2former_video.inputs import OfficialMatcher, picture, video_cfg


def inputs_of(case) -> list[dict]:
    size = tuple(
        map(int, re.search(r"size \[(\d+), (\d+)\]", case.info["input"]["images"]).groups())
    )
    num_frames = case.config["frames"]
    inputs = []
    for video, annotation in enumerate(case.info["instances"]):
        ids, classes = (annotation[f"gt_{key}_per_frame"] for key in ("ids", "classes"))
        shape = (num_frames, len(ids[0]), *size)
        masks = torch.from_numpy(case.unpacked(f"gt_masks_v{video}_packed", shape))
        frames = []
        for frame in range(num_frames):
            instances = Instances(size)
            instances.gt_ids = torch.tensor(ids[frame])
            instances.gt_classes = torch.tensor(classes[frame])
            instances.gt_masks = BitMasks(masks[frame])
            frames.append(instances)
        images = [picture(f"{case.name}.v{video}.t{t}", size) for t in range(num_frames)]
        inputs.append({"image": images, "instances": frames})
    return inputs


def official_targets(case, inputs: list[dict], num_classes: int) -> list[dict]:
    """Ours but for the labels, which the case has."""
    targets = []
    for entry, official in zip(inputs, case.info["targets_official"], strict=True):
        num_frames, size = official["masks_shape"][1], official["masks_shape"][2:]
        target = clip_target(entry, num_classes, num_frames, torch.device("cpu"))
        target = pad_frames(target, size)
        assert list(target["masks"].shape) == official["masks_shape"]
        labels = torch.tensor(official["labels"])
        # Where the last frame shows the track, the official label is right.
        seen = labels < num_classes
        assert torch.equal(target["labels"][seen], labels[seen])
        targets.append({**target, "labels": labels})
    return targets


@parametrize_cases("mask2former_video", "train_step_")
def test_clip_train_step(case, comparison):
    config, cfg = case.config, video_cfg(case)
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = config["num_points"]
    model = build_model(cfg).double().train()
    fill_model(model, overrides=case.weight_overrides)
    criterion = model.criterion
    criterion.draw_points = CriterionPoints(config["num_points"], config["oversample_ratio"])
    matcher = OfficialMatcher.__new__(OfficialMatcher)
    vars(matcher).update(vars(criterion.matcher), draw_points=matcher_points)
    assignments = []

    def remember(*arguments):
        assignments.append(matcher(*arguments))
        return assignments[-1]

    criterion.matcher = remember

    inputs = inputs_of(case)
    targets = official_targets(case, inputs, config["num_classes"])
    frames = [{"image": frame} for entry in inputs for frame in entry["image"]]
    images = model.preprocess_images(frames).tensor
    losses = criterion(model.sem_seg_head(model.backbone(images)), targets)
    sum(losses.values()).backward()

    expected = case.info["losses_weighted"]
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        comparison.close(name, value, expected[name], 0.0, relative=1e-7)
    (assignment,) = assignments
    num_targets = [len(target["labels"]) for target in targets]
    for name, videos in case.info["assignment"].items():
        level = 0 if name == "final" else int(name.removeprefix("aux")) + 1
        for video, pairs in enumerate(videos):
            chosen = assignment.image[level] == video
            target = assignment.target[level][chosen] - sum(num_targets[:video])
            comparison.equal(f"{name} query", assignment.query[level][chosen], pairs["query"])
            comparison.equal(f"{name} target", target, pairs["target"])
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    golden = case.info["gradients"]
    assert gradients.keys() == golden["values"].keys()
    for name, (norm, projection) in golden["values"].items():
        gradient = gradients[name]
        comparison.close(f"norm {name}", gradient.norm(), norm, 1e-8, relative=1e-5)
        actual = (gradient * torch.from_numpy(z(f"proj.{name}", gradient.shape))).sum()
        tolerance = 1e-5 * max(1, norm) * gradient.numel() ** 0.5
        comparison.close(f"projection {name}", actual, projection, tolerance)
    comparison.check()
