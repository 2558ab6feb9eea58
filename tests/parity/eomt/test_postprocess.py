"""The three inferences from given logits, with resizing, padding and windows of the images."""

import numpy as np
import torch
from detectron2.data import transforms as T

from eomt.images import cut_windows, window_starts
from eomt.meta_arch import EoMT, windowed_scores
from eomt.network import MaskOutputs
from parity.golden import parametrize_cases
from segcore.inference import PanopticMerging

ROUNDING = 1.0  # levels: the official test allows one


class GivenLogits(torch.nn.Module):
    """Network that returns the logits of a case and keeps its input."""

    def __init__(self, case):
        super().__init__()
        self.outputs = MaskOutputs(
            *(
                torch.from_numpy(case.arrays[name]).double()
                for name in ("pred_logits", "pred_masks")
            )
        )

    def forward(self, images, *, masked_attention):
        self.images = images
        return [self.outputs]


def build_model(case, size, **switches) -> EoMT:
    config = case.config
    stuff = config.get("stuff_classes", [])
    model = EoMT(
        transformer=GivenLogits(case),
        criterion=torch.nn.Identity(),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        input_size=tuple(size),
        topk_per_image=config.get("topk", 100),
        thing_ids=set(range(config["num_classes"])) - set(stuff),
        panoptic_merging=PanopticMerging(
            "mask2former",
            score_threshold=config.get("score_threshold", 0.8),
            min_visible_share=config.get("overlap_threshold", 0.8),
        ),
        **{"panoptic_on": False, **switches},
    )
    return model.double().eval()


def resized(image: np.ndarray, resize: T.Augmentation) -> torch.Tensor:
    """The pixels (3, h, w) of an image (3, H, W) as evaluation gives them."""
    pixels = resize.get_transform(image.transpose(1, 2, 0)).apply_image(image.transpose(1, 2, 0))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def blank_inputs(case, side: int) -> list[dict]:
    """Inputs of the sizes of a case, resized to fit a square."""
    inputs = []
    for height, width in case.config["image_sizes_hw"]:
        resize = T.ResizeShortestEdge([side, side], side)
        image = resized(np.zeros((3, height, width), np.uint8), resize)
        inputs.append({"image": image, "height": height, "width": width})
    return inputs


@parametrize_cases("eomt", "eomt_postprocess_panoptic")
def test_panoptic(case, comparison):
    arrays, info = case.arrays, case.info
    side = case.config["input_size"][0]
    model = build_model(case, case.config["input_size"], panoptic_on=True)
    resize = T.ResizeShortestEdge([side, side], side)
    inputs = [
        {"image": resized(arrays[f"image{i}"], resize), "height": height, "width": width}
        for i, (height, width) in enumerate(case.config["image_sizes_hw"])
    ]
    results = model(inputs)

    network_input = case.sampled("network_input", model.transformer.images)
    comparison.close("network_input", network_input, arrays["network_input"], ROUNDING)
    for image, result in enumerate(results):
        segment_map, segments = result["panoptic_seg"]
        classes = torch.full_like(segment_map, case.config["num_classes"])
        rows = []
        for segment in segments:
            inside = segment_map == segment["id"]
            classes[inside] = segment["category_id"]
            rows.append([segment["id"] - 1, segment["category_id"], int(inside.sum())])
        comparison.equal(f"class{image}", classes, arrays[f"class{image}"])
        comparison.equal(f"segment{image}", segment_map - 1, arrays[f"segment{image}"])
        assert rows == info["segments_id_class_area"][image]
    for height, width, side, *expected in info["resized_size_table"]:
        actual = T.ResizeShortestEdge.get_output_shape(height, width, side, side)
        comparison.equal(f"size of {height}x{width}", actual, expected)
    comparison.require_results(arrays, results=r"class\d|segment\d|network_input", inputs=".*")
    comparison.check()


@parametrize_cases("eomt", "eomt_postprocess_instance")
def test_instance(case, comparison):
    arrays = case.arrays
    side = case.config["input_size"][0]
    model = build_model(case, case.config["input_size"], instance_on=True)
    for image, result in enumerate(model(blank_inputs(case, side))):
        instances, scores = result["instances"], arrays[f"scores{image}"]
        comparison.close(f"scores{image}", instances.scores, scores, 1e-7)
        ordered = scores > 0  # instances whose score is exactly 0 tie
        labels, masks = instances.pred_classes[ordered], instances.pred_masks[ordered]
        comparison.equal(f"labels{image}", labels, arrays[f"labels{image}"][ordered])
        expected = case.unpacked(f"masks{image}", instances.pred_masks.shape)
        comparison.equal(f"masks{image}", masks, expected[ordered])
    comparison.require_results(arrays, results=r"(scores|labels|masks)\d", inputs="pred_.*")
    comparison.check()


@parametrize_cases("eomt", "eomt_postprocess_semantic_windows")
def test_semantic_windows(case, comparison):
    arrays, info = case.arrays, case.info
    side = case.config["window"]
    outputs = GivenLogits(case).outputs
    first, windows = 0, []
    for image, size in enumerate(case.config["image_sizes_hw"]):
        pixels = resized(arrays[f"image{image}"], T.ResizeShortestEdge([side, side], 65_536))
        comparison.equal(f"size{image}", pixels.shape[1:], info["resized_sizes_hw"][image])
        windows.append(cut_windows(pixels, side))
        count = len(windows[-1])
        starts = window_starts(max(pixels.shape[1:]), side)
        expected = [
            start for number, start, _ in info["windows_image_start_end"] if number == image
        ]
        comparison.equal(f"starts{image}", starts, expected)
        part = MaskOutputs(*(x[first : first + count] for x in outputs))
        scores = windowed_scores(part, tuple(pixels.shape[1:]), tuple(size))
        name = f"sem_seg{image}"
        comparison.close(name, case.sampled(name, scores), arrays[name], case.tolerance)
        first += count
    cut = case.sampled("windows", torch.cat(windows))
    comparison.close("windows", cut, arrays["windows"], ROUNDING)
    for row in info["window_table"]:
        height, width = row["image_hw"]
        size = T.ResizeShortestEdge.get_output_shape(height, width, row["window"], 65_536)
        comparison.equal(f"resized {height}x{width}", size, row["resized_hw"])
        starts = window_starts(max(size), row["window"])
        comparison.equal(f"windows {height}x{width}", starts, row["starts"])
    comparison.require_results(arrays, results=r"sem_seg\d|windows", inputs=r"image\d|pred_.*")
    comparison.check()


@parametrize_cases("eomt", "eomt_postprocess_semantic_windows")
def test_windowed_model(case):
    """The model cuts, predicts and stitches as the parts do, and has the same compact result."""
    side, size = case.config["window"], case.config["image_sizes_hw"][0]
    model = build_model(case, (side, side), semantic_on=True, windows=True)
    count = len(window_starts(max(size), side))
    outputs = MaskOutputs(*(x[:count] for x in model.transformer.outputs))
    model.transformer.outputs = outputs
    inputs = [{"image": torch.from_numpy(case.arrays["image0"])}]
    scores = model(inputs)[0]["sem_seg"]
    assert torch.equal(scores, windowed_scores(outputs, tuple(size), tuple(size)))
    classes = model.predict_compact(inputs)[0]["semantic_map"]
    assert classes.dtype == torch.uint8 and torch.equal(classes.long(), scores.argmax(0))
