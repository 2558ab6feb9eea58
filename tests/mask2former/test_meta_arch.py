from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks

from compact_results import assert_compact_equals
from mask2former.meta_arch import MaskFormer
from segcore.config import get_cfg
from segcore.inference import PanopticMerging
from segcore.inference.merging import STRATEGIES
from segcore.inference.one_pass import infer_masks

ROOT = Path(__file__).resolve().parents[2]
NUM_CLASSES, NUM_QUERIES = 3, 5


def image(rows, columns, **extra):
    generator = torch.Generator().manual_seed(rows)
    pixels = torch.randint(0, 256, (3, rows, columns), generator=generator, dtype=torch.uint8)
    return {"image": pixels, "file_name": f"{rows}x{columns}.jpg", **extra}


def with_target(inputs, labels=(0, 2), masks=None):
    height, width = inputs["image"].shape[-2:]
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    if masks is None:
        masks = torch.zeros(len(labels), height, width, dtype=torch.bool)
        for i, mask in enumerate(masks):
            mask[i * 10 : i * 10 + 15, 5:30] = True
    instances.gt_masks = masks
    return {**inputs, "instances": instances}


KEEPS_ALL = PanopticMerging("mask2former", score_threshold=0.0, min_visible_share=0.0)
ALL_ON = {"semantic_on": True, "instance_on": True, "panoptic_on": True, "thing_ids": [0, 1]}


def test_results_in_detectron2_format(build_small_model):
    model = build_small_model(**ALL_ON, panoptic_merging=KEEPS_ALL).eval()
    with torch.no_grad():
        results = model([image(50, 70, height=100, width=141), image(64, 33)])
    for result, size in zip(results, [(100, 141), (64, 33)], strict=True):
        assert result["sem_seg"].shape == (NUM_CLASSES, *size)
        panoptic, segments = result["panoptic_seg"]
        assert panoptic.shape == size and panoptic.dtype == torch.int32
        assert set(panoptic.unique().tolist()) - {0} == {segment["id"] for segment in segments}
        instances = result["instances"]
        assert instances.image_size == size
        assert instances.pred_masks.shape[1:] == size
        assert set(instances.pred_classes.tolist()) <= {0, 1}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_merging_strategy(build_small_model, strategy):
    loose = {"score_threshold": 0.0, "min_visible_share": 0.0, "quality_thresholds": (0.0, 0.0)}
    model = build_small_model(**ALL_ON, panoptic_merging=PanopticMerging(strategy, **loose)).eval()
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -10  # hardly "no object"
        results = model([image(50, 70, height=100, width=141), image(64, 33)])
    for result, size in zip(results, [(100, 141), (64, 33)], strict=True):
        panoptic, segments = result["panoptic_seg"]
        assert panoptic.shape == size and panoptic.dtype == torch.int32
        assert segments
        assert set(panoptic.unique().tolist()) - {0} == {segment["id"] for segment in segments}
        assert all(segment["isthing"] == (segment["category_id"] < 2) for segment in segments)


def test_compact_results_equal_tensors(build_small_model):
    model = build_small_model(**ALL_ON, panoptic_merging=KEEPS_ALL).eval()
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -10  # hardly "no object"
    inputs = [image(50, 70, height=100, width=141), image(64, 33)]
    with torch.no_grad():
        expected = model(inputs)
    for result, compact in zip(expected, model.predict_compact(inputs), strict=True):
        assert_compact_equals(compact, result)
    with pytest.raises(RuntimeError, match="evaluation mode"):
        model.train().predict_compact(inputs)


@pytest.mark.parametrize("word, strategy", [("", "mask2former"), ("mask_wise", "mask_wise")])
def test_merging_by_config(word, strategy):
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/_base_/mask2former_small.yaml"))
    cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = 0.6
    cfg.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD = 0.7
    cfg.MODEL.PANOPTIC_MERGING.STRATEGY = word
    merging = MaskFormer.from_config(cfg)["panoptic_merging"]
    assert merging == PanopticMerging(strategy, score_threshold=0.6, min_visible_share=0.7)


def test_instances_keep_every_class_without_panoptic(build_small_model):
    options = ALL_ON | {"panoptic_on": False, "semantic_on": False}
    model = build_small_model(**options).eval()
    with torch.no_grad():
        (result,) = model([image(50, 70)])
    assert set(result) == {"instances"}
    # Fewer pairs of query and class than the 100 asked for.
    assert len(result["instances"]) == NUM_QUERIES * NUM_CLASSES


def test_semantic_only_resizes_scores(build_small_model):
    model = build_small_model(semantic_on=True).eval()
    inputs = [image(50, 70, height=25, width=35)]
    with torch.no_grad():
        (result,) = model(inputs)
        model.resize_before_inference = True
        (other,) = model(inputs)
    assert result["sem_seg"].shape == other["sem_seg"].shape == (NUM_CLASSES, 25, 35)
    assert not torch.allclose(result["sem_seg"], other["sem_seg"])
    torch.testing.assert_close(result["sem_seg"], other["sem_seg"], atol=0.3, rtol=0)


def test_evaluation_without_no_grad(build_small_model):
    with torch.enable_grad():
        (result,) = build_small_model(**ALL_ON).eval()([image(50, 70)])
    assert not result["sem_seg"].requires_grad


def test_padding_comes_after_normalization(build_small_model):
    model = build_small_model()
    seen = {}
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.update(batch=inputs[0]))
    small, large = image(40, 65), image(64, 32)
    with torch.no_grad():
        model.eval()([small, large])
    assert seen["batch"].shape == (2, 3, 64, 96)
    expected = (small["image"].float() - model.pixel_mean) / model.pixel_std
    assert torch.equal(seen["batch"][0, :, :40, :65], expected)
    assert not seen["batch"][0, :, 40:].any() and not seen["batch"][0, :, :, 65:].any()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, "BitMasks"])
def test_training_takes_every_kind_of_mask(build_small_model, dtype):
    inputs = with_target(image(50, 70))
    masks = inputs["instances"].gt_masks
    inputs["instances"].gt_masks = BitMasks(masks) if dtype == "BitMasks" else masks.to(dtype)
    model = build_small_model().train()
    seen = {}
    model.criterion.register_forward_pre_hook(lambda module, inputs: seen.update(inputs=inputs))
    torch.manual_seed(0)
    losses = model([inputs, with_target(image(64, 60), labels=())])
    # The criterion also computed the auxiliary losses; those without weight are dropped.
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())

    outputs, targets = seen["inputs"]
    assert len(outputs["aux_outputs"]) == 4
    assert [tuple(target["masks"].shape) for target in targets] == [(2, 64, 96), (0, 64, 96)]
    assert targets[0]["masks"].dtype == torch.bool
    assert torch.equal(targets[0]["masks"][:, :50, :70], masks)
    assert targets[0]["masks"].sum() == masks.sum()


def test_losses_are_weighted(build_small_model):
    model = build_small_model().train()
    inputs = [with_target(image(50, 70))]
    totals = []
    for factor in (1.0, 3.0):
        model.criterion.weight_dict = {"loss_ce": factor}
        torch.manual_seed(0)
        totals.append(model(inputs)["loss_ce"])
    torch.testing.assert_close(totals[1], 3 * totals[0])


def test_bad_targets_name_the_image(build_small_model):
    model = build_small_model().train()
    good = with_target(image(50, 70))
    with pytest.raises(ValueError, match=r"64x60.jpg: instances: expected Instances.*'image'"):
        model([good, image(64, 60)])
    with pytest.raises(ValueError, match=r"64x60.jpg: gt_classes: .*\[0, 3\), got \[-1, 3\]"):
        model([good, with_target(image(64, 60), labels=(0, 3, -1))])
    with pytest.raises(ValueError, match=r"64x60.jpg: gt_masks: .*\(2, 64, 60\), got \(2, 8, 8\)"):
        model([with_target(image(64, 60), masks=torch.zeros(2, 8, 8))])
    polygons = PolygonMasks([[[0.0, 0, 9, 0, 9, 9]]] * 2)
    with pytest.raises(ValueError, match=r"64x60.jpg: gt_masks: .*BitMasks, got PolygonMasks"):
        model([with_target(image(64, 60), masks=polygons)])


def test_something_must_be_wanted(build_small_model):
    with pytest.raises(ValueError, match="semantic_on, instance_on, panoptic_on: expected at"):
        build_small_model(semantic_on=False)


def test_negative_divisibility_is_the_backbones(build_small_model):
    assert build_small_model(size_divisibility=-1).size_divisibility == 0


def test_float64_model(build_small_model):
    model = build_small_model(**ALL_ON).double().eval()
    with torch.no_grad():
        (result,) = model([image(50, 70)])
    assert result["sem_seg"].dtype == torch.float64


@pytest.mark.parametrize("pixel_decoder", [False, True])
def test_bfloat16_autocast_trains(build_small_model, pixel_decoder):
    """The loss is within a fiftieth of that in float32, every gradient finite and in float32."""
    model = build_small_model().train()
    model.sem_seg_head.pixel_decoder.autocast = pixel_decoder
    totals = []
    for enabled in (False, True):
        torch.manual_seed(0)  # of the points that are sampled
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            totals.append(sum(model([with_target(image(50, 70))]).values()))
    assert totals[1].item() == pytest.approx(totals[0].item(), rel=0.02)
    totals[1].backward()
    for parameter in model.parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()


def test_means_are_no_checkpoint_entries(build_small_model):
    names = build_small_model().state_dict()
    assert "pixel_mean" not in names and "criterion.empty_weight" in names


def test_out_of_memory_on_the_gpu_retries(build_small_model, monkeypatch):
    """Detectron2's retry catches the first failure of a step."""
    calls = []

    def fails_once(prediction, **options):
        calls.append(prediction.device)
        if len(calls) == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return infer_masks(prediction, **options)

    monkeypatch.setattr("segcore.inference.results.infer_masks", fails_once)
    model = build_small_model(semantic_on=True).eval()
    with torch.no_grad():
        (result,) = model([image(50, 70)])
    assert len(calls) == 2 and result["sem_seg"].shape == (NUM_CLASSES, 50, 70)


def test_is_a_detectron2_model():
    from detectron2.modeling import META_ARCH_REGISTRY

    assert META_ARCH_REGISTRY.get("MaskFormer") is MaskFormer
