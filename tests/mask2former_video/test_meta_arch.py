"""Losses of clips and tracks of videos."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from mask2former_video.targets import clip_target
from segcore.checkpoint import SafeCheckpointer


def frames(seed: int, num_frames: int = 5, size=(40, 56)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_frames, 3, *size)
    return list(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))


def instances(ids, classes, size=(40, 56)) -> Instances:
    result = Instances(size)
    result.gt_ids, result.gt_classes = torch.tensor(ids), torch.tensor(classes)
    masks = torch.zeros((len(ids), *size), dtype=torch.bool)
    masks[result.gt_ids >= 0, 4:20, 6:30] = True
    result.gt_masks = BitMasks(masks)
    return result


def clip() -> dict:
    """A track in both frames, one that leaves, one that comes, and one that is never seen."""
    annotations = [
        instances([7, 8, -1, -1], [1, 2, 5, 5]),
        instances([7, -1, 9, -1], [1, 5, 3, 5]),
    ]
    return {"image": frames(0, 2), "instances": annotations, "video_id": 4}


def close(first: dict, second: dict) -> None:
    torch.testing.assert_close(first["pred_scores"], second["pred_scores"])
    assert first["pred_labels"] == second["pred_labels"]
    masks = [torch.stack(list(result["pred_masks"])) for result in (first, second)]
    assert (masks[0] != masks[1]).float().mean() < 1e-3


def test_labels_are_those_of_a_frame_that_shows_the_track():
    target = clip_target(clip(), 5, 2, torch.device("cpu"))
    assert target["labels"].tolist() == [1, 2, 3]
    assert [mask.flatten(1).any(1).tolist() for mask in target["masks"]] == [
        [True, True, False],
        [True, False, True],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instances": None}, "expected 2 frames .* got 2 and 0"),
        ({"image": frames(0, 1)}, "expected 2 frames .* got 1 and 2"),
        ({"instances": [instances([1], [5])] * 2}, r"labels in \[0, 5\), got \[5\]"),
        ({"instances": [instances([1], [1]), instances([], [])]}, "as many rows in each frame"),
        ({"instances": [instances([1], [1], (8, 8))] * 2}, r"expected .* \(1, 40, 56\)"),
        ({"instances": [Instances((40, 56))] * 2}, "expected gt_ids, gt_classes and gt_masks"),
    ],
)
def test_faulty_annotations_name_the_video(change, message):
    inputs = {**clip(), "file_names": ["v/00.jpg", "v/01.jpg"], **change}
    with pytest.raises(ValueError, match=rf"video 4 \(v/00.jpg\): .*{message}"):
        clip_target(inputs, 5, 2, torch.device("cpu"))


@torch.inference_mode()
def test_queries_take_the_last_layer_of_the_embedding(video_model):
    images = torch.randn(3, 3, 64, 96)
    folded = video_model.network(images)
    last = video_model.sem_seg_head.pixel_decoder.mask_features
    hook = last.register_forward_hook(lambda *_: None)
    plain = video_model.network(images)
    hook.remove()
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4)


def test_training_step(build_cfg):
    torch.manual_seed(0)
    model = build_model(build_cfg()).train()
    empty = {**clip(), "instances": [instances([], [])] * 2}
    larger = {**clip(), "image": frames(3, 2, (48, 64))}
    larger["instances"] = [instances([1], [0], (48, 64))] * 2
    losses = model([clip(), empty, larger])
    assert losses.keys() == {f"loss_{k}{s}" for k in ("ce", "mask", "dice") for s in ("", "_0")}
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())


def test_videos_of_a_batch_do_not_see_each_other(video_model):
    inputs = [
        {"image": frames(1), "height": 60, "width": 84},
        {"image": frames(2, 3, (48, 48))},
    ]
    together = video_model(inputs)
    for single, result in zip(inputs, together, strict=True):
        close(video_model([single])[0], result)
    assert [result["image_size"] for result in together] == [(60, 84), (48, 48)]
    assert [len(result["pred_scores"]) for result in together] == [10, 10]
    assert together[0]["pred_masks"][0].shape == (5, 60, 84)
    assert together[0]["pred_masks"][0].dtype == torch.bool
    scores = together[0]["pred_scores"]
    assert scores == sorted(scores, reverse=True)


def test_a_clip_as_long_as_the_video_is_the_whole_video(video_model, monkeypatch):
    inputs = [{"image": frames(1)}]
    (whole,) = video_model(inputs)
    for length in (5, 8):
        monkeypatch.setattr(video_model, "clip_length", length)
        (linked,) = video_model(inputs)
        assert linked["pred_masks"].run_lengths == whole["pred_masks"].run_lengths
        masks = linked.pop("pred_masks"), whole["pred_masks"]
        assert linked == {key: value for key, value in whole.items() if key != "pred_masks"}
        assert len(masks[0]) == len(masks[1])


def test_frames_are_taken_as_they_are_needed(video_model, monkeypatch):
    monkeypatch.setattr(video_model, "clip_length", 4)
    monkeypatch.setattr(video_model, "clip_overlap", 2)
    taken, seen = [], []
    network = video_model.network

    def remember(images):
        seen.append((len(taken), len(images)))
        return network(images)

    monkeypatch.setattr(video_model, "network", remember)
    stream = (taken.append(frame) or frame for frame in frames(3, 9))
    result = video_model.predict_video(stream)
    assert seen == [(4, 4), (6, 4), (8, 4), (9, 4)]
    assert all(len(track) == 9 for track in result["pred_masks"].run_lengths)
    assert len(result["pred_missing_frames"]) == len(result["pred_scores"])


def test_unusable_frames(video_model):
    with pytest.raises(ValueError, match="expected at least one, got none"):
        video_model([{"image": []}])
    with pytest.raises(ValueError, match=r"frame 1: expected 40 x 56 pixels .* got 40 x 40"):
        video_model([{"image": [*frames(0, 1), *frames(0, 1, (40, 40))]}])


def test_a_photo_is_no_video(video_model):
    with pytest.raises(ValueError, match=r"expected \(3, height, width\) each, got \(40, 56\)"):
        video_model([{"image": frames(0, 1)[0]}])


def test_a_checkpoint_of_images_starts_a_model_of_videos(build_cfg, tmp_path):
    cfg = build_cfg(MODEL__SEM_SEG_HEAD__NUM_CLASSES=8)
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    state = build_model(cfg).state_dict()
    torch.save({"model": state}, tmp_path / "images.pth")
    model = build_model(build_cfg())
    SafeCheckpointer(model).load(str(tmp_path / "images.pth"))
    fresh = set(model.class_rows())
    for name, value in model.state_dict().items():
        assert name in fresh or torch.equal(value, state[name])


def test_decoder_needs_whole_clips(build_cfg):
    model = build_model(build_cfg())
    images = torch.zeros(3, 3, 64, 64)
    with pytest.raises(ValueError, match="expected clips of 2 frames"):
        model.train().sem_seg_head(model.backbone(images))


def test_a_model_of_images_has_the_same_entries(video_model, build_cfg):
    cfg = build_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"
    images = build_model(cfg)
    entries = [{k: v.shape for k, v in m.state_dict().items()} for m in (images, video_model)]
    assert entries[0] == entries[1]
    assert images.class_rows() == video_model.class_rows()
