"""From logits to the ten tracks, and the whole model from frames to tracks."""

import re
from functools import partial

import numpy as np
import torch
from detectron2.modeling import build_model

from mask2former_video.linking import ClipLinker
from mask2former_video.tracks import encode_frames
from parity.golden import fill_model, generated, parametrize_cases
from parity.mask2former.capture import Capture
from parity.mask2former_video.inputs import picture, video_cfg

HEAD = "sem_seg_head"
PREDICTOR = f"{HEAD}.predictor"


@parametrize_cases("mask2former_video", "inference_selection_")
def test_selection_of_tracks(case, comparison):
    config, expected = case.config, case.info["result"]
    sizes = [tuple(config[f"{name}_size"]) for name in ("padded", "image", "output")]
    linker = ClipLinker(partial(encode_frames, sizes=sizes), topk=config["topk"], threshold=0.3)
    logits, masks = (generated(case.info["inputs"][f"pred_{name}"]) for name in ("logits", "masks"))
    linker.add(0, logits, masks)
    result = linker.finish()

    comparison.close("scores", result["pred_scores"], expected["scores"], 0, relative=1e-12)
    comparison.equal("labels", result["pred_labels"], expected["labels"])
    actual = torch.stack(list(result["pred_masks"]))
    comparison.equal("masks_packed", actual, case.unpacked("masks_packed", actual.shape))
    assert result["pred_missing_frames"] == [0] * config["topk"]
    comparison.check()


@parametrize_cases("mask2former_video", "full_")
@torch.no_grad()
def test_full_video(case, comparison):
    model = build_model(video_cfg(case)).double().eval()
    fill_model(model, overrides=case.weight_overrides)
    # For the auxiliary predictions; it has no dropout, and the clip's length is the video's.
    model.sem_seg_head.predictor.train()
    num_frames = case.config["frames"]
    height, width = case.info["input"]["requested_output_size_hw"]
    size = re.search(r"size \[(\d+), (\d+)\]", case.info["input"]["images"]).groups()
    frames = [picture(f"{case.name}.frame{t}", tuple(map(int, size))) for t in range(num_frames)]
    layers = {f"dec{i}": f"{PREDICTOR}.transformer_ffn_layers.{i}" for i in range(9)}
    cross = {
        f"blocked{i}_packed": f"{PREDICTOR}.transformer_cross_attention_layers.{i}"
        for i in range(9)
    }
    modules = ["backbone", PREDICTOR, *layers.values(), *cross.values()]
    with Capture(model, modules) as capture:
        (result,) = model([{"image": frames, "height": height, "width": width}])

    maps, mask_features = capture.inputs[PREDICTOR]
    outputs = capture.outputs[PREDICTOR]
    actual = {f"backbone_{name}": value for name, value in capture.outputs["backbone"].items()}
    actual |= {"mask_features": mask_features}
    for level, features in enumerate(maps):
        encoding = model.sem_seg_head.predictor.position_encoding
        actual[f"ms{level}"] = features
        actual[f"pos{level}"] = encoding(num_frames, features.shape[-2:])
    for prefix, prediction in [
        ("", outputs),
        *((f"aux{i}_", aux) for i, aux in enumerate(outputs["aux_outputs"])),
    ]:
        actual |= {f"{prefix}{key}": prediction[key] for key in ("pred_logits", "pred_masks")}
    actual |= {name: capture.outputs[module].transpose(0, 1) for name, module in layers.items()}
    for name, module in cross.items():
        visible = capture.inputs[module][4][0, 0]
        comparison.equal(name, ~visible, case.unpacked(name, visible.shape))
    for name, value in actual.items():
        if name in case.arrays:
            expected = case.arrays[name]
            comparison.close(name, case.sampled(name, value), expected, case.tolerance, scaled=True)

    expected = case.info["result"]
    comparison.close("scores", result["pred_scores"], expected["scores"], 1e-6)
    comparison.equal("labels", result["pred_labels"], expected["labels"])
    assert result["image_size"] == tuple(expected["image_size"])
    masks = torch.stack(list(result["pred_masks"]))
    comparison.equal("result_areas", masks.sum((2, 3)), case.arrays["result_areas"])
    name = "result_masks_first4_packed"
    share = np.mean(masks[:4].numpy() != case.unpacked(name, masks[:4].shape))
    comparison.close(name, share, 0.0, 1e-4)  # the share of pixels that differ
    comparison.require_results(case.arrays, results=".*", inputs="")
    comparison.check()
