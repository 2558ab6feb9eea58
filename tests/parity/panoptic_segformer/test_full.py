"""The whole model: photos to results, with what lies between, layer by layer."""

import re

import torch

from panoptic_segformer.postprocess import absolute_boxes, choose_things
from parity.golden import parametrize_cases
from parity.mask2former.capture import Capture
from parity.panoptic_segformer.model import build_model_for_case
from parity.panoptic_segformer.results import official_maps

FEATURES = {"backbone_c3": "res3", "backbone_c4": "res4", "backbone_c5": "res5"}
# The module whose output an array is, or whose input.
OUTPUTS = {
    r"enc(\d+)": r"encoder.layers.\1",
    r"dec(\d+)": r"location_decoder.layers.\1",
}
INPUTS = {
    r"enc(\d+)_attn": r"encoder.layers.\1.norm1",
    r"dec(\d+)_self_attn": r"location_decoder.layers.\1.norm1",
    r"dec(\d+)_cross_attn": r"location_decoder.layers.\1.norm2",
}
PARTS = [
    "backbone",
    "neck",
    "encoder",
    "location_decoder",
    *(f"{kind}_mask_decoder" for kind in ("thing", "stuff")),
    *(f"{kind}_mask_decoder.layers.0.cross_attn" for kind in ("thing", "stuff")),
]
RESULTS = r"img\d+_(?!.*_b0_linear_).*|all_(cls_logits|boxes)|backbone_c\d|neck_\d"
# Pixels of a panoptic map, and of an instance's mask, that may differ.
PIXEL_SHARE = 1e-3


@parametrize_cases("panoptic_segformer", "*_full_forward")
@torch.no_grad()
def test_full(case, comparison):
    model = build_model_for_case(case)
    inner = {
        name: re.sub(pattern, module, name)
        for name in case.arrays
        for pattern, module in (OUTPUTS | INPUTS).items()
        if re.fullmatch(pattern, name)
    }
    last = f"stuff_class_embed.{len(model.stuff_class_embed) - 1}"
    metas = case.info["image_meta"]
    inputs = [
        {
            "image": torch.from_numpy(case.arrays[f"image{i}_rgb"]).permute(2, 0, 1),
            "height": meta["ori_shape"][0],
            "width": meta["ori_shape"][1],
        }
        for i, meta in enumerate(metas)
    ]
    with Capture(model, [*PARTS, last, *inner.values()]) as capture:
        results = model(inputs)

    actual = {name: capture.outputs["backbone"][key] for name, key in FEATURES.items()}
    actual |= {f"neck_{i}": level for i, level in enumerate(capture.outputs["neck"])}
    for name, module in inner.items():
        is_input = any(re.fullmatch(pattern, name) for pattern in INPUTS)
        actual[name] = capture.inputs[module][0] if is_input else capture.outputs[module]
    actual |= padding_arrays(model, capture)
    actual |= location_arrays(capture)
    for kind in ("thing", "stuff"):
        for i, arrays in enumerate(mask_arrays(model, capture, kind)):
            actual |= {f"img{i}_{kind}_{name}": array for name, array in arrays.items()}
    scores = capture.outputs[last].squeeze(-1).sigmoid()
    actual |= {f"img{i}_stuff_scores": of_image for i, of_image in enumerate(scores)}

    tolerance = case.info["tolerance"]["float64"]
    for name, array in actual.items():
        if name in case.arrays:
            array = case.sampled(name, array)
            comparison.close(name, array, case.arrays[name], tolerance, scaled=True)
    compared = set()
    for i, result in enumerate(results):
        size = inputs[i]["height"], inputs[i]["width"]
        compared |= compare_detections(comparison, case, capture, i, size)
        compared |= compare_results(comparison, case, result, i)
    comparison.require_results(
        case.arrays, results=RESULTS, inputs=r"image\d+_rgb", compared=compared
    )
    comparison.check()


def padding_arrays(model, capture) -> dict[str, torch.Tensor]:
    """Position codes, and the mask of the tokens that the mask decoders take."""
    _, shapes = capture.inputs["encoder"]
    code = model.encoder.position_encoding
    masks = shapes.masks() or [None] * len(shapes.spatial_shapes)
    arrays = {
        f"pos_{i}": code(size, padding_mask=mask).expand(len(shapes.valid_shapes), -1, -1, -1)
        for i, (size, mask) in enumerate(zip(shapes.spatial_shapes, masks, strict=True))
    }
    mask = shapes.first(3).token_mask()
    if mask is None:
        mask = torch.zeros(len(shapes.valid_shapes), shapes.first(3).num_tokens)
    return arrays | {"memory_mask_l012": mask}


def location_arrays(capture) -> dict[str, torch.Tensor]:
    location = capture.outputs["location_decoder"]
    return {
        "all_cls_logits": torch.stack(location.logits),
        "all_boxes": torch.stack(location.boxes),
        "last_reference_logit": location.boxes[-2].logit(),
    }


def mask_arrays(model, capture, kind: str) -> list[dict[str, torch.Tensor]]:
    """Of each image the masks and queries of all blocks, and the level FCs of block 0."""
    name = f"{kind}_mask_decoder"
    masks, queries = model.get_submodule(name)(*capture.inputs[name], all_masks=True)
    arrays = {"mask_final": masks[-1]}
    arrays |= {f"mask_{block}": mask for block, mask in enumerate(masks[:-1])}
    arrays |= {f"query_{block}": query for block, query in enumerate(queries)}

    attention = model.get_submodule(f"{name}.layers.0.cross_attn")
    queries, memory, spatial_shapes, _ = capture.inputs[f"{name}.layers.0.cross_attn"]
    q, k = attention.heads(attention.q(queries)), attention.heads(attention.k(memory))
    logits = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).permute(0, 2, 3, 1)
    parts = logits.split([height * width for height, width in spatial_shapes], dim=2)
    for level, (part, linear) in enumerate(zip(parts, attention.mask_level, strict=True), start=1):
        arrays[f"b0_linear_l{level}"] = linear(part).relu().unsqueeze(1)
    return [{name: array[i] for name, array in arrays.items()} for i in range(len(memory))]


def compare_detections(comparison, case, capture, i: int, size: tuple[int, int]) -> set[str]:
    location = capture.outputs["location_decoder"]
    things = choose_things(location.logits[-1][i], len(case.arrays[f"img{i}_topk_query"]))
    name = f"img{i}_topk"
    comparison.equal(f"{name}_query", things.queries, case.arrays[f"{name}_query"])
    comparison.equal(f"{name}_label", things.labels, case.arrays[f"{name}_label"])
    boxes = absolute_boxes(location.boxes[-1][i, things.queries], size)
    found = torch.cat((boxes, things.scores[:, None]), dim=1)
    expected, tolerance = case.arrays[f"{name}_box_score"], case.info["tolerance"]["float64"]
    comparison.close(f"{name}_box_score", found, expected, tolerance, scaled=True)
    return {f"{name}_{what}" for what in ("query", "label", "box_score")}


def compare_results(comparison, case, result, i: int) -> set[str]:
    name = f"img{i}_panoptic"
    expected = case.arrays[name]
    allowed = int(PIXEL_SHARE * expected[..., 0].size)
    for which, found in enumerate(official_maps(*result["panoptic_seg"])):
        comparison.equal(f"{name}_{which}", found, expected[..., which], allowed=allowed)

    instances = result["instances"]
    found = torch.cat((instances.pred_boxes.tensor, instances.scores[:, None]), dim=1)
    expected, tolerance = case.arrays[f"img{i}_instances"], case.info["tolerance"]["float64"]
    ordered = expected[:, 4] > 0  # instances whose score is exactly 0 tie
    comparison.close(f"img{i}_instances", found[ordered], expected[ordered], tolerance, scaled=True)
    comparison.close(f"img{i}_instance_scores", found[:, 4], expected[:, 4], tolerance)
    labels, areas = (case.arrays[f"img{i}_instance_{key}"] for key in ("labels", "areas"))
    comparison.equal(f"img{i}_instance_labels", instances.pred_classes[ordered], labels[ordered])
    allowed = PIXEL_SHARE * instances.pred_masks[0].numel()
    found = instances.pred_masks.sum(dim=(1, 2))[ordered]
    comparison.close(f"img{i}_instance_areas", found, areas[ordered], allowed)
    return {name, *(f"img{i}_instance{what}" for what in ("s", "_labels", "_areas"))}
