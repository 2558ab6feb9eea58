"""Networks in bfloat16: near those in float32, float32 where it is needed, refusals."""

from pathlib import Path

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from torch import nn

from autofocusformer.deformable_attention import PointDeformAttn
from eomt_models import small_model
from segcore.config import get_cfg
from segcore.engine import Trainer
from segcore.engine.setup import fit_to_machine
from segcore.errors import ConfigError
from segcore.precision import in_precision
from small_models import SMALL_MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "_base_"
BACKBONES = {
    "ResNet": {"MODEL.BACKBONE.NAME": "build_resnet_backbone"},
    "Swin": {"MODEL.BACKBONE.NAME": "D2SwinTransformer"},
    "AutoFocusFormer": {"MODEL.BACKBONE.NAME": "AutoFocusFormer"},
}
SMALL_SWIN = {"MODEL.SWIN.DEPTHS": [1, 1, 1, 1], "MODEL.SWIN.EMBED_DIM": 24}
# Of a query's logits, as a share of their norm; bfloat16 rounds to 2^-9 of a number.
TOLERANCE = 0.04


def config(file: str, options: dict):
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / file))
    pairs = {"MODEL.DEVICE": "cpu", **SMALL_MODELS, **SMALL_SWIN, **options}
    cfg.merge_from_list([part for pair in pairs.items() for part in pair])
    return cfg


def build(file: str, options: dict) -> nn.Module:
    torch.manual_seed(0)
    return build_model(config(file, options)).eval()


def photo(height: int = 75, width: int = 100) -> dict:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    return {"image": image, "height": 60, "width": 80}


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The median query is near: decisions, as of masked attention, may change for a few."""
    difference = (actual.double() - expected).flatten(2).norm(dim=2)
    errors = difference / expected.flatten(2).norm(dim=2)
    assert errors.median() <= TOLERANCE


@torch.no_grad()
def assert_network_near(model: nn.Module) -> None:
    half = in_precision(model, "bfloat16")
    expected = model.network(model.preprocess_images([photo()]).tensor)
    actual = half.network(half.preprocess_images([photo()]).tensor)
    for name in ("class_logits", "mask_logits"):
        assert getattr(actual, name).dtype == torch.bfloat16
        assert_near(getattr(actual, name), getattr(expected, name))


def assert_results_in_float32(model: nn.Module) -> None:
    with torch.no_grad():
        (results,) = in_precision(model, "bfloat16")([photo()])
    assert results["sem_seg"].shape[1:] == (60, 80)
    assert results["sem_seg"].dtype == results["instances"].scores.dtype == torch.float32
    assert results["sem_seg"].isfinite().all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_mask2former(backbone):
    model = build("mask2former_small.yaml", BACKBONES[backbone])
    assert_network_near(model)
    assert_results_in_float32(model)


def test_eomt():
    model = small_model("MODEL.EOMT.TEST.SEMANTIC_ON", True, "MODEL.EOMT.TEST.INSTANCE_ON", True)
    assert_network_near(model.eval())
    assert_results_in_float32(model)


def test_eomt_with_rotary_positions():
    model = small_model("MODEL.EOMT.VIT.NAME", "vit_small_patch16_dinov3_qkvb").eval()
    assert_network_near(model)
    half = in_precision(model, "bfloat16").transformer.backbone.vit
    assert half.blocks[0].attn.k_bias.dtype == torch.bfloat16
    assert half.rope.periods.dtype == torch.float32


@torch.no_grad()
def test_panoptic_segformer():
    model = build("panoptic_segformer_small.yaml", {})
    half = in_precision(model, "bfloat16")
    (expected, memory, shapes), (actual, half_memory, _) = (
        each.encode(each.batches([photo()])[0].images) for each in (model, half)
    )
    # All queries in their order: in the results it is that of nearly equal scores.
    assert_near(actual.logits[-1], expected.logits[-1])
    assert actual.boxes[-1].dtype == torch.float32
    torch.testing.assert_close(actual.boxes[-1], expected.boxes[-1], rtol=0, atol=0.02)
    masks, half_masks = (
        each.thing_mask_decoder(location.queries, None, tokens, shapes.spatial_shapes).masks[-1]
        for each, location, tokens in ((model, expected, memory), (half, actual, half_memory))
    )
    assert half_masks.dtype == torch.bfloat16
    assert_near(half_masks, masks)
    assert_results_in_float32(model)


def test_float32_is_kept_where_it_is_needed():
    model = build("mask2former_small.yaml", {"MODEL.RESNETS.NORM": "BN"})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    half = in_precision(model, "bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.pixel_mean.dtype == half.pixel_std.dtype == torch.float32
    norms = [module for module in half.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.weight.dtype == norm.running_var.dtype == torch.float32
    attention = PointDeformAttn(8, 1, 2, 2, power=3.1, learnable_power=True)
    attention = in_precision(attention, "bfloat16")
    assert attention.shepard_power.item() == pytest.approx(3.1)
    assert attention.output_proj.weight.dtype == torch.bfloat16

    assert in_precision(model, "float32") is model
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_wrong_precisions_are_refused():
    with pytest.raises(ConfigError, match=r"TEST.PRECISION: expected one of .*, got 'half'"):
        in_precision(nn.Linear(1, 1), "half")
    cfg = config("mask2former_small.yaml", {"TEST.PRECISION": "float16"})
    message = "TEST.PRECISION: expected float32 or bfloat16 on a CPU, got float16"
    for refused in (lambda: fit_to_machine(cfg), lambda: in_precision(nn.Linear(1, 1), "float16")):
        with pytest.raises(ConfigError, match=message):
            refused()


class _Outputs(DatasetEvaluator):
    def reset(self):
        self.types = set()

    def process(self, inputs, outputs):
        self.types.add(outputs.dtype)

    def evaluate(self):
        return {"task": {"half": float(self.types == {torch.bfloat16})}}


class _LoadedTrainer(Trainer):
    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [torch.ones(2, 3)] * 2


def test_evaluation_in_a_precision():
    class Model(nn.Linear):
        def forward(self, batch):
            return super().forward(batch.to(self.weight.dtype))

    options = {"TEST.PRECISION": "bfloat16", "DATASETS.TEST": ("any",)}
    cfg, model = config("mask2former_small.yaml", options), Model(3, 2)
    results = _LoadedTrainer.test(cfg, model, [_Outputs()])
    assert results["task"]["half"] == 1
    assert model.training
    assert model.weight.dtype == torch.float32
