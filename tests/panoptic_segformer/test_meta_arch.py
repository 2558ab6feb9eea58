"""The whole model, small: results and losses in Detectron2's format, switches, errors."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances

from compact_results import assert_compact_equals
from panoptic_segformer.build import build_network
from panoptic_segformer.location_kinds import BoxLocation, CenterLocation
from panoptic_segformer.meta_arch import PanopticSegFormer
from segcore.backbones.features import TokenShape
from segcore.config import get_cfg
from segcore.inference import PanopticMerging

NUM_CLASSES, THINGS = 5, {1, 2, 4}


def photo(rows, columns, **extra):
    generator = torch.Generator().manual_seed(rows)
    pixels = torch.randint(0, 256, (3, rows, columns), generator=generator, dtype=torch.uint8)
    return {"image": pixels, "file_name": f"{rows}x{columns}.jpg", **extra}


def annotated(inputs, labels=(0, 2, 4)):
    height, width = inputs["image"].shape[-2:]
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    instances.gt_masks = torch.zeros(len(labels), height, width, dtype=torch.bool)
    for i, mask in enumerate(instances.gt_masks):
        mask[i * 10 : i * 10 + 15, 5:30] = True
    return {**inputs, "instances": instances}


@torch.no_grad()
def test_results_in_detectron2_format(build_perturbed_model):
    merging = PanopticMerging("mask_wise", quality_thresholds=(0.0, 0.0))
    model = build_perturbed_model(results={"merging": merging, "topk_per_image": 10})
    results = model([photo(50, 70, height=100, width=141), photo(64, 33)])
    for result, size in zip(results, [(100, 141), (64, 33)], strict=True):
        assert result["sem_seg"].shape == (NUM_CLASSES, *size)
        panoptic, segments = result["panoptic_seg"]
        assert panoptic.shape == size and panoptic.dtype == torch.int32
        assert {segment["id"] for segment in segments} == set(panoptic.unique().tolist()) - {0}
        assert all(s["isthing"] == (s["category_id"] in THINGS) for s in segments)
        instances = result["instances"]
        assert instances.image_size == size and len(instances) == 10
        assert set(instances.pred_classes.tolist()) <= THINGS
        assert (instances.scores.diff() <= 0).all()
        x1, y1 = instances.pred_boxes.tensor[:, 2:].amax(0).tolist()
        assert 0 < x1 <= size[1] and 0 < y1 <= size[0]


@pytest.mark.parametrize("location_kind", [CenterLocation(), BoxLocation()])
@torch.no_grad()
def test_compact_results_equal_tensors(build_perturbed_model, location_kind):
    merging = PanopticMerging("mask_wise", quality_thresholds=(0.0, 0.0))
    model = build_perturbed_model(results={"merging": merging}, location_kind=location_kind)
    inputs = [photo(50, 70, height=100, width=141), photo(64, 33)]
    for result, compact in zip(model(inputs), model.predict_compact(inputs), strict=True):
        assert_compact_equals(compact, result)


@torch.no_grad()
def test_results_wanted(build_perturbed_model):
    off = {"semantic_on": False, "instance_on": False}
    model = build_perturbed_model(results=off)
    (found,) = model([photo(50, 70)])
    (everything,) = build_perturbed_model()([photo(50, 70)])
    assert set(found) == {"panoptic_seg"} and set(everything) == {
        "panoptic_seg",
        "instances",
        "sem_seg",
    }
    assert torch.equal(found["panoptic_seg"][0], everything["panoptic_seg"][0])


@torch.no_grad()
def test_boxes_of_masks_without_predicted_ones(build_perturbed_model):
    (result,) = build_perturbed_model(location_kind=CenterLocation())([photo(50, 70)])
    instances = result["instances"]
    for mask, box in zip(instances.pred_masks, instances.pred_boxes.tensor.int(), strict=True):
        x0, y0, x1, y1 = box.tolist()
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
    assert instances.pred_masks.any()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("location_kind", [CenterLocation(), BoxLocation()])
def test_every_parameter_learns(build_small_model, location_kind, recompute):
    """In a batch with different sizes, of which one image has nothing to find."""
    model = build_small_model(location_kind=location_kind, recompute=recompute).train()
    losses = model([annotated(photo(50, 70)), annotated(photo(64, 60), labels=())])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_recomputing_changes_no_gradient(build_small_model):
    gradients = []
    for recompute in (False, True):
        model = build_small_model(recompute=recompute).train()
        sum(model([annotated(photo(50, 70))]).values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_losses_of_a_batch_of_equal_sizes(build_small_model):
    """Images of one size go through the network together, and lose as by themselves."""
    model = build_small_model().train()
    inputs = [annotated(photo(48, 64)), annotated(photo(48, 64), labels=(1, 3))]
    inputs[1]["image"] = inputs[1]["image"].flip(-1)
    together = model(inputs)["d1.loss_mask_stuff_f"]
    alone = [model([one])["d1.loss_mask_stuff_f"] for one in inputs]
    # Weighted by annotations: 3 in the first image, 2 in the second.
    torch.testing.assert_close(together, (3 * alone[0] + 2 * alone[1]) / 5)


def test_bad_target_names_the_image(build_small_model):
    model = build_small_model().train()
    with pytest.raises(ValueError, match=r"64x60.jpg: gt_classes: .*\[0, 5\), got \[5\]"):
        model([annotated(photo(50, 70)), annotated(photo(64, 60), labels=(5,))])


def test_bfloat16_autocast(build_small_model):
    model = build_small_model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([annotated(photo(50, 70))])
        (result,) = model.eval()([photo(50, 70)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert result["instances"].scores.dtype == torch.float32


def test_negative_divisibility_is_the_backbones(build_small_model, build_pyramid):
    model = build_small_model(backbone=build_pyramid(32), size_divisibility=-1)
    assert model.size_divisibility == 32


def test_is_a_detectron2_model():
    assert META_ARCH_REGISTRY.get("PanopticSegFormer") is PanopticSegFormer


def segformer_cfg(**keys) -> CfgNode:
    panoptic_segformer = get_cfg().MODEL.PANOPTIC_SEGFORMER
    for key, value in keys.items():
        panoptic_segformer[key] = value
    return panoptic_segformer


SHAPES = {f"res{i}": ShapeSpec(channels=8, stride=2**i) for i in range(2, 6)}


def test_keys_that_cannot_be():
    for features in (["res3", "res4"], ["res2", "res3", "res5"], ["res3", "res4", "res9"]):
        with pytest.raises(ValueError, match=r"IN_FEATURES: expected 3 features of rising stride"):
            build_network(segformer_cfg(IN_FEATURES=features), SHAPES, num_things=2)
    tokens = {name: TokenShape(channels=8, stride=shape.stride) for name, shape in SHAPES.items()}
    with pytest.raises(ValueError, match=r"returns maps, got one that returns tokens"):
        build_network(segformer_cfg(), tokens, num_things=2)


def test_network_of_the_config():
    keys = {"HIDDEN_DIM": 64, "ENC_LAYERS": 1, "LOCATION_LAYERS": 2, "LOCATION_TARGET": "centre"}
    keys |= {"THING_MASK_LAYERS": 1, "STUFF_MASK_LAYERS": 3, "CHECKPOINT_MASK_DECODERS": True}
    parts = build_network(segformer_cfg(**keys), SHAPES, num_things=2)
    assert len(parts["encoder"].layers) == 1 and len(parts["location_decoder"].layers) == 2
    assert len(parts["thing_mask_decoder"].layers) == 1
    assert parts["thing_mask_decoder"].recompute and parts["stuff_mask_decoder"].recompute
    assert len(parts["stuff_mask_decoder"].layers) == 3
    assert parts["location_decoder"].class_embed[0].out_features == 2
    assert parts["location_decoder"].bbox_embed[0].layers[-1].out_features == 2
