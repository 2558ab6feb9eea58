"""MaskFormer's decoders and the per-pixel heads: values, losses, gradients, whole models."""

import re
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model
from torch import Tensor, nn

from mask2former import (
    PerPixelBaselineHead,
    PerPixelBaselinePlusHead,
    StandardTransformerDecoder,
)
from mask2former.head import build_pixel_decoder
from parity.golden import (
    Case,
    Comparison,
    fill_model,
    generated,
    parametrize_cases,
    picture,
    z,
)
from parity.mask2former.capture import Capture
from parity.mask2former.model import published_cfg
from segcore.config import get_cfg


@parametrize_cases("mask2former_more", "pixel_decoder_")
def test_pixel_decoder(case: Case, comparison: Comparison):
    cfg, shapes = small_cfg(case), input_shapes(case)
    decoder = SEM_SEG_HEADS_REGISTRY.get(case.info["what"].split()[0])(cfg, shapes)
    prepare(decoder, case, "sem_seg_head.pixel_decoder.")
    features = inputs_of(case)
    mask_features, encoded, maps = decoder.forward_features(features)

    outputs = {"mask_features": mask_features}
    outputs |= {f"ms{level}": x for level, x in enumerate(maps)}
    if encoded is not None:
        outputs["encoded"] = encoded
    assert (encoded is None) == (case.info["second_value"] == "None")
    compare_arrays(comparison, case, outputs)
    compare_gradients(comparison, case, decoder, features, projection(case, outputs))
    comparison.check()


@parametrize_cases("mask2former_more", "decoder_standard_")
def test_standard_decoder(case: Case, comparison: Comparison):
    config = case.config
    decoder = standard_decoder(
        config | {"hidden_dim": config["hidden"], "nheads": config["heads"]},
        config["in_channels"],
        num_classes=config["num_classes"] if config["mask_classification"] else None,
        num_queries=config["num_queries"],
        mask_dim=config["mask_dim"],
        deep_supervision=config["deep_supervision"],
        enforce_input_projection=config["enforce_input_projection"],
    )
    prepare(decoder, case, "sem_seg_head.predictor.")
    features = inputs_of(case)
    predicted = decoder(features["x"], features["mask_features"])

    assert len(predicted["aux_outputs"]) == case.info["num_aux_outputs"]
    predictions = {"": predicted} | {f"aux{i}_": p for i, p in enumerate(predicted["aux_outputs"])}
    outputs = {
        f"{prefix}{name}": prediction[name]
        for prefix, prediction in predictions.items()
        for name in ("pred_logits", "pred_masks")
        if name in prediction
    }
    compare_arrays(comparison, case, outputs)
    compare_gradients(comparison, case, decoder, features, projection(case, outputs))
    comparison.check()


@parametrize_cases("mask2former_more", "per_pixel")
def test_per_pixel_head(case: Case, comparison: Comparison):
    head = per_pixel_head(case)
    prepare(head, case, "sem_seg_head.")
    features = inputs_of(case)
    nothing, losses = head(features, targets_of(case))

    assert nothing is None and losses.keys() == case.info["losses"].keys()
    for name, value in case.info["losses"].items():
        comparison.close(name, losses[name], value, case.tolerance, scaled=True)
    compare_gradients(comparison, case, head, features, sum(losses.values()))
    with torch.no_grad():
        logits, losses = head.eval()(features)
    assert losses == {}
    compare_arrays(comparison, case, {"logits": logits})
    comparison.check()


@parametrize_cases("mask2former_more", "full_")
@torch.no_grad()
def test_full_model(case: Case, comparison: Comparison):
    cfg = published_cfg(case.config["base"], case.config["changes"])
    model = build_model(cfg).double()
    fill_model(model, overrides=case.weight_overrides)
    model.eval().sem_seg_head.predictor.train()  # for the auxiliary predictions; no dropout
    name, height, width = re.fullmatch(
        r"image of name '(.+)', size \[(\d+), (\d+)\]", case.info["input"]["image"]
    ).groups()
    image = picture(name, (int(height), int(width)))
    with Capture(model, ["sem_seg_head"]) as capture:
        (result,) = model([{"image": image}])

    outputs = capture.outputs["sem_seg_head"]
    if isinstance(outputs, tuple):
        actual = {"logits": outputs[0]}
    else:
        assert len(outputs["aux_outputs"]) == case.info["num_aux_outputs"]
        actual = {name: outputs[name] for name in ("pred_logits", "pred_masks")}
        for index, prediction in enumerate(outputs["aux_outputs"]):
            actual[f"aux{index}_pred_logits"] = prediction["pred_logits"]
    compare_arrays(comparison, case, actual | {"sem_seg": result["sem_seg"]})
    comparison.require_results(case.arrays, results=".*", inputs="")
    comparison.check()


def small_cfg(case: Case) -> CfgNode:
    """The config of a case that names channels and layers of the pixel decoder itself."""
    config, cfg = case.config, get_cfg()
    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    head.IN_FEATURES = list(config["in_channels"])
    head.CONVS_DIM, head.MASK_DIM = config["conv_dim"], config["mask_dim"]
    head.NORM = config["norm"]
    encoder = config.get("pixel_decoder", config)
    head.PIXEL_DECODER_NAME = encoder.get("name", "BasePixelDecoder")
    head.TRANSFORMER_ENC_LAYERS = encoder.get("transformer_enc_layers", 0)
    mask_former.NHEADS = encoder.get("transformer_nheads", 4)
    mask_former.DIM_FEEDFORWARD = encoder.get("transformer_dim_feedforward", 64)
    mask_former.PRE_NORM = encoder.get("transformer_pre_norm", False)
    mask_former.DROPOUT = 0.0
    return cfg


def per_pixel_head(case: Case) -> nn.Module:
    config, cfg = case.config, small_cfg(case)
    pixel_decoder, _ = build_pixel_decoder(cfg, input_shapes(case))
    options = {name: config[name] for name in ("num_classes", "loss_weight", "ignore_value")}
    options["pixel_decoder"] = pixel_decoder
    if config["transformer"] is None:
        return PerPixelBaselineHead(mask_dim=config["mask_dim"], **options)
    in_feature = config["transformer_in_feature"]
    predictor = standard_decoder(
        config["transformer"],
        config["in_channels"].get(in_feature, config["conv_dim"]),
        num_classes=None,
        num_queries=config["num_classes"],
        mask_dim=config["mask_dim"],
        deep_supervision=config["deep_supervision"],
    )
    return PerPixelBaselinePlusHead(
        transformer_predictor=predictor, transformer_in_feature=in_feature, **options
    )


def standard_decoder(
    config: dict[str, Any], in_channels: int, **options: Any
) -> StandardTransformerDecoder:
    return StandardTransformerDecoder(
        in_channels,
        hidden_dim=config["hidden_dim"],
        num_heads=config["nheads"],
        feedforward_dim=config["dim_feedforward"],
        num_encoder_layers=config["enc_layers"],
        num_decoder_layers=config["dec_layers"],
        dropout=config.get("dropout", 0.0),
        pre_norm=config["pre_norm"],
        **options,
    )


def input_shapes(case: Case) -> dict[str, ShapeSpec]:
    return {
        name: ShapeSpec(channels=channels, stride=4 * 2**level)
        for level, (name, channels) in enumerate(case.config["in_channels"].items())
    }


def prepare(part: nn.Module, case: Case, prefix: str) -> None:
    """Give a part of a model the names and weights of a case, in float64."""
    official = {name: tuple(shape) for name, shape in case.info["state_dict"]}
    assert {name: tuple(x.shape) for name, x in part.state_dict().items()} == official
    fill_model(part.double(), prefix=prefix, overrides=case.weight_overrides)


def inputs_of(case: Case) -> dict[str, Tensor]:
    return {
        name: generated(text).requires_grad_()
        for name, text in case.info["inputs"].items()
        if name != "target"
    }


def targets_of(case: Case) -> Tensor:
    """The class of each pixel: ``floor(|2.5*z(...)|) mod 7, value 6 replaced by 255``."""
    text = case.info["inputs"]["target"]
    values, modulus, ignored, ignore_value = re.fullmatch(
        r"floor\(\|(.+)\|\) mod (\d+), value (\d+) replaced by (\d+)", text
    ).groups()
    target = generated(values).abs().floor().long() % int(modulus)
    return target.where(target != int(ignored), int(ignore_value))


def projection(case: Case, outputs: dict[str, Tensor]) -> Tensor:
    """The scalar whose gradient a case holds: the sum of <output i, z('<case>.g<i>')>."""
    return sum(
        (output * torch.from_numpy(z(f"{case.name}.g{index}", output.shape))).sum()
        for index, output in enumerate(outputs.values())
    )


def compare_arrays(comparison: Comparison, case: Case, outputs: dict[str, Tensor]) -> None:
    for name, output in outputs.items():
        sampled = case.sampled(name, output)
        comparison.close(name, sampled, case.arrays[name], case.tolerance, scaled=True)


def compare_gradients(
    comparison: Comparison, case: Case, module: nn.Module, inputs: dict[str, Tensor], scalar: Tensor
) -> None:
    """Compare the scalar, its gradients by the inputs, and the norms of those by parameters."""
    if "scalar" in case.info:
        comparison.close("scalar", scalar, case.info["scalar"], case.tolerance, scaled=True)
    scalar.backward()
    compare_arrays(comparison, case, {f"grad_{name}": x.grad for name, x in inputs.items()})
    parameters = dict(module.named_parameters())
    without = {name for name, parameter in parameters.items() if parameter.grad is None}
    assert without == set(case.info["without_gradient"])
    for name, norm in case.info["grad_norms"].items():
        comparison.close(
            f"norm {name}", parameters[name].grad.norm(), norm, case.tolerance, scaled=True
        )
    comparison.require_results(
        [name for name in case.arrays if name.startswith("grad_")], results=".*", inputs=""
    )
