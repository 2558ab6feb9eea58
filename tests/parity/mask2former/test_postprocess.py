"""Inference from given class and mask logits."""

import re

import torch

from mask2former.meta_arch import MaskFormer
from parity.golden import parametrize_cases
from parity.mask2former.results import compare_results
from segcore.inference import PanopticMerging, resize_mask_logits


def meta_arch(case, run: dict) -> MaskFormer:
    """A model without network: only its inference is used."""
    return MaskFormer(
        backbone=torch.nn.Identity(),
        sem_seg_head=torch.nn.Identity(),
        criterion=torch.nn.Identity(),
        pixel_mean=[0.0],
        pixel_std=[1.0],
        thing_ids=case.info["thing_contiguous_ids"],
        panoptic_merging=PanopticMerging(
            "mask2former",
            score_threshold=case.config["object_mask_threshold"],
            min_visible_share=case.config["overlap_threshold"],
        ),
        topk_per_image=case.config["topk_per_image"],
        **run,
    )


@parametrize_cases("mask2former", "postprocess_")
def test_postprocess(case, comparison):
    class_logits, mask_logits = (
        torch.from_numpy(case.arrays[name]).double() for name in ("pred_logits", "pred_masks")
    )
    sizes = [tuple(case.info[f"{size}_size_hw"]) for size in ("padded", "image", "output")]
    if "resized_masks" in case.arrays:
        resized = case.sampled("resized_masks", resize_mask_logits(mask_logits, *sizes))
        expected = case.arrays["resized_masks"]
        comparison.close("resized_masks", resized, expected, case.tolerance)
    for arrays, run in case.config["runs"].items():
        # A run is named by its arrays: "sem_seg<i>, panoptic<i>, inst<i>", "all_classes_inst<i>".
        prefix = re.match("(.*?)(?:sem_seg|panoptic|inst)<i>", arrays)[1]
        model = meta_arch(case, run)
        results = model.result_maker(model.mask_prediction(class_logits, mask_logits, *sizes))
        wanted = {"sem_seg": "semantic", "panoptic_seg": "panoptic", "instances": "instance"}
        assert set(results) == {key for key, task in wanted.items() if run[f"{task}_on"]}
        compare_results(
            comparison, case, results, 0, tolerance=case.tolerance, scaled=False, prefix=prefix
        )
    comparison.check()
