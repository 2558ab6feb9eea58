"""The whole model: photo to semantic, instance and panoptic results, with what lies between."""

import re

import torch

from parity.golden import fill_model, parametrize_cases
from parity.mask2former.capture import Capture
from parity.mask2former.model import build_model_for_case
from parity.mask2former.results import compare_results
from segcore.layers import convolution, onednn
from segcore.ops import winograd_conv2d
from segcore.ops._library import is_compiled

HEAD = "sem_seg_head"
ENCODER = f"{HEAD}.pixel_decoder.transformer.encoder.layers"
PREDICTOR = f"{HEAD}.predictor"
CROSS = f"{PREDICTOR}.transformer_cross_attention_layers"
MODULES = {
    r"pd_input_proj(\d+)": rf"{HEAD}.pixel_decoder.input_proj.\1",
    r"pd_enc(\d+)": rf"{ENCODER}.\1",
    r"pd_((?:adapter|layer)_\d+)": rf"{HEAD}.pixel_decoder.\1",
    r"mask_features": rf"{HEAD}.pixel_decoder.mask_features",
    r"dec(\d+)_after_cross": rf"{CROSS}.\1",
    r"dec(\d+)_after_self": rf"{PREDICTOR}.transformer_self_attention_layers.\1",
    r"dec(\d+)": rf"{PREDICTOR}.transformer_ffn_layers.\1",
    r"attn_mask(\d+)_packed": rf"{CROSS}.\1",
}
RESULTS = r"(aux\d+_)?pred_(logits|masks)|(sem_seg|panoptic|inst)\d+.*|backbone_\w+|mask_features"


def module_of(array: str) -> str | None:
    """The module whose output (for a mask: input) ``array`` is; None if no single one's."""
    for pattern, module in MODULES.items():
        if re.fullmatch(pattern, array):
            return re.sub(pattern, module, array)
    return None


def inputs_of(case) -> list[dict]:
    images = sum(re.fullmatch(r"image\d+", name) is not None for name in case.arrays)
    return [{"image": torch.from_numpy(case.arrays[f"image{i}"])} for i in range(images)]


@parametrize_cases("mask2former", "full_")
@torch.no_grad()
def test_full(case, comparison):
    model = build_model_for_case(case.config, case.info.get("thing_contiguous_ids"))
    fill_model(model, overrides=case.weight_overrides)
    model.sem_seg_head.predictor.train()  # for the auxiliary predictions; it has no dropout

    inputs = inputs_of(case)
    sizes = case.info["input"].get("requested_output_sizes_hw", [])  # default: the image's own
    for entry, size in zip(inputs, sizes, strict=False):
        entry["height"], entry["width"] = size
    modules = {name: module_of(name) for name in case.arrays if module_of(name)}
    backbone = ["backbone.stem"] if "stem" in case.arrays else []
    with Capture(model, {"backbone", HEAD, *backbone, *modules.values()}) as capture:
        results = model(inputs)

    for name, expected in case.arrays.items():
        if name.startswith("attn_mask"):
            visible = capture.inputs[modules[name]][4][:, 0]
            blocked = case.unpacked(name, visible.shape)
            comparison.equal(name, ~visible, blocked)
            continue
        actual = intermediate(name, modules.get(name), capture)
        if actual is None:
            continue
        actual = case.sampled(name, actual)
        comparison.close(name, actual, expected, case.tolerance, scaled=True)
    for image, result in enumerate(results):
        compare_results(comparison, case, result, image, tolerance=case.tolerance, scaled=True)
    comparison.require_results(case.arrays, results=RESULTS, inputs=r"image\d+")
    comparison.check()


@parametrize_cases("mask2former", "full_")
@torch.no_grad()
def test_float32(case, comparison, monkeypatch):
    """The layers of inference on a CPU, most of which exist in float32 only."""
    transformed = []
    monkeypatch.setattr(
        convolution,
        "winograd_conv2d",
        lambda *args, **options: transformed.append(1) or winograd_conv2d(*args, **options),
    )
    model = build_model_for_case(case.config, case.info.get("thing_contiguous_ids"))
    fill_model(model, overrides=case.weight_overrides)
    model.float()
    outputs = model.network(model.preprocess_images(inputs_of(case)).tensor)
    assert transformed or not onednn.has_operators() or not is_compiled("winograd_conv2d", "cpu")
    for name, actual in zip(("pred_logits", "pred_masks"), outputs, strict=True):
        actual = case.sampled(name, actual)
        comparison.close(name, actual, case.arrays[name], 1e-5, scaled=True)
    comparison.check()


def intermediate(name: str, module: str | None, capture: Capture):
    """The array ``name`` in the layout of the case; None if no module of ours exposes it."""
    outputs = capture.outputs
    if name == "stem":
        return outputs["backbone.stem"]
    if name.startswith("backbone_"):
        return outputs["backbone"][name.removeprefix("backbone_")]
    if module is not None:
        output = outputs[module]
        return output.transpose(0, 1) if name.startswith("dec") else output
    if match := re.fullmatch(r"(?:aux(\d+)_)?(pred_logits|pred_masks)", name):
        level, key = match.groups()
        head = outputs[HEAD]
        return (head if level is None else head["aux_outputs"][int(level)])[key]
    return None
