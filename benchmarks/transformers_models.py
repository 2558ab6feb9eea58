"""Whole models beside those of the Transformers library with the same weights, one thread.

    python -m benchmarks.transformers_models [--models swin eomt] [--repeats 3]

Mask2Former with a Swin-T on 640x960 and EoMT-S on 640x640, initial weights, COCO's classes: the
network alone, and panoptic results with post-processing, which on their side is
`post_process_panoptic_segmentation` of the image processor, of images normalized beforehand. 20
queries are certain of a class on both sides. The two take turns, and the least CPU time of each
counts, as other programs of the machine only add to it. The outputs of the networks are compared
first.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from benchmarks.before_and_after import build_for_benchmark, make_certain
from benchmarks.common import least_cpu_seconds
from benchmarks.models import CONFIGS, STUFF, THINGS, photo
from tabulate import tabulate
from torch import Tensor, nn

from segcore.checkpoint.transformers import EXPORTERS, write_transformers
from segcore.config import load_config

SEGMENTS = 20
SWIN_CONFIG = CONFIGS / "swin/maskformer2_swin_tiny_bs16_50ep.yaml"
EOMT_CONFIG = CONFIGS / "eomt_dinov2_small_640.yaml"
STUFF_CLASSES = range(THINGS, THINGS + STUFF)
THRESHOLD = 0.8  # of the class score, and of the share of a mask that is visible


class Pair(NamedTuple):
    """Our model and theirs with the same weights, and their post-processing of their outputs."""

    ours: nn.Module
    theirs: nn.Module
    post_process: Callable[[Any], Any]
    size: tuple[int, int]


def swin() -> Pair:
    ours = build_for_benchmark(SWIN_CONFIG, ["panoptic"], SEGMENTS)
    names = [str(index) for index in range(THINGS + STUFF)]
    convert = EXPORTERS.find("MaskFormer")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder, "model")
        write_transformers(convert(ours.state_dict(), load_config(SWIN_CONFIG), names), folder)
        theirs = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(folder)
    make_certain(theirs.class_predictor, SEGMENTS)
    size = 640, 960
    processor = transformers.Mask2FormerImageProcessor()

    def post_process(outputs: Any) -> Any:
        return processor.post_process_panoptic_segmentation(
            outputs,
            threshold=THRESHOLD,
            overlap_mask_area_threshold=THRESHOLD,
            label_ids_to_fuse={*STUFF_CLASSES},
            target_sizes=[size],
        )

    return Pair(ours, theirs.eval(), post_process, size)


def eomt() -> Pair:
    size = 640, 640
    ours = build_for_benchmark(EOMT_CONFIG, ["panoptic"], SEGMENTS)
    config = transformers.EomtConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        num_blocks=3,
        num_queries=200,
        num_upscale_blocks=2,
        image_size=size[0],
        patch_size=16,
        num_register_tokens=4,
        num_labels=THINGS + STUFF,
    )
    theirs = transformers.EomtForUniversalSegmentation._from_config(
        config, attn_implementation="sdpa"
    )
    theirs.attn_mask_probs.zero_()  # as after training
    ours.load_state_dict(theirs.state_dict())
    make_certain(theirs.class_predictor, SEGMENTS)
    side = {"shortest_edge": size[0], "longest_edge": size[1]}
    processor = transformers.EomtImageProcessor(size=side, do_pad=True)

    def post_process(outputs: Any) -> Any:
        return processor.post_process_panoptic_segmentation(
            outputs,
            target_sizes=[size],
            threshold=THRESHOLD,
            overlap_mask_area_threshold=THRESHOLD,
            stuff_classes=[*STUFF_CLASSES],
        )

    return Pair(ours, theirs.eval(), post_process, size)


PAIRS = {"swin": ("Mask2Former, Swin-T", swin), "eomt": ("EoMT, ViT-S", eomt)}


def check_outputs(pair: Pair, pixels: Tensor) -> None:
    """Raise an AssertionError if the networks differ."""
    ours, theirs = pair.ours.network(pixels), pair.theirs(pixel_values=pixels)
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(ours[0], theirs.class_queries_logits, **close)
    torch.testing.assert_close(ours[1], theirs.masks_queries_logits, **close)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[*PAIRS], choices=PAIRS)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.models:
        title, make_pair = PAIRS[name]
        with torch.inference_mode(False):
            pair = make_pair()
        batch = [photo(pair.size, SEGMENTS)]
        pixels = pair.ours.preprocess_images(batch).tensor
        check_outputs(pair, pixels)
        steps = {
            "network": {
                "ours": lambda pair=pair, pixels=pixels: pair.ours.network(pixels),
                "theirs": lambda pair=pair, pixels=pixels: pair.theirs(pixel_values=pixels),
            },
            "panoptic": {
                "ours": lambda pair=pair, batch=batch: pair.ours(batch),
                "theirs": lambda pair=pair, pixels=pixels: pair.post_process(
                    pair.theirs(pixel_values=pixels)
                ),
            },
        }
        for step, functions in steps.items():
            seconds = least_cpu_seconds(functions, arguments.repeats)
            ours, theirs = seconds["ours"], seconds["theirs"]
            rows.append([title, step, theirs, ours, theirs / ours])
    headers = ["", "", "Transformers s", "ours s", "faster"]
    print(f"Transformers {transformers.__version__}, PyTorch {torch.__version__}")
    print(tabulate(rows, headers, floatfmt=("", "", ".2f", ".2f", ".2f")))


if __name__ == "__main__":
    main()
