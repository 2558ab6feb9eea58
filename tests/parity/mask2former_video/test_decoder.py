"""Position encoding and transformer decoder of clips against the official ones."""

from mask2former_video.position_encoding import SinePositionEncoding3D
from mask2former_video.transformer_decoder import VideoMultiScaleMaskedTransformerDecoder
from parity.golden import fill_model, first_number, generated, parametrize_cases
from parity.mask2former.capture import Capture


@parametrize_cases("mask2former_video", "position_3d_")
def test_clip_position_encoding(case, comparison):
    config = case.config
    encoding = SinePositionEncoding3D(config["features_per_axis"])
    actual = encoding(config["frames"], (config["height"], config["width"]))
    comparison.close("position", actual, case.arrays["position"], case.tolerance)
    comparison.check()


def build(config: dict) -> VideoMultiScaleMaskedTransformerDecoder:
    return VideoMultiScaleMaskedTransformerDecoder(
        config["in_channels"],
        num_frames=config["frames"],
        num_classes=config["num_classes"],
        hidden_dim=config["hidden"],
        num_queries=config["num_queries"],
        num_heads=config["heads"],
        feedforward_dim=config["ffn_decoder"],
        num_layers=config["decoder_layers"],
        mask_dim=config["mask_dim"],
        enforce_input_projection=config["enforce_input_projection"],
    ).double()


@parametrize_cases("mask2former_video", "decoder_")
def test_clip_decoder(case, comparison):
    config = case.config
    decoder = build(config)
    # In training mode for the auxiliary predictions; there is no dropout.
    assert config["videos"] == 1 or config["training"]
    fill_model(decoder, prefix="sem_seg_head.predictor.", overrides=case.weight_overrides)
    inputs = {name: generated(text) for name, text in case.info["inputs"].items()}
    for value in inputs.values():
        value.requires_grad_(config["training"])
    layers = range(config["decoder_layers"])
    ffn = {f"dec{i}": f"transformer_ffn_layers.{i}" for i in layers}
    cross = {f"blocked{i}_packed": f"transformer_cross_attention_layers.{i}" for i in layers}
    with Capture(decoder, [*ffn.values(), *cross.values()]) as capture:
        outputs = decoder([inputs[f"map{level}"] for level in range(3)], inputs["mask_features"])

    predictions = [*outputs["aux_outputs"], outputs]
    names = [f"aux{i}_" for i in range(len(predictions) - 1)] + [""]
    actual = {
        f"{name}{key}": prediction[key]
        for name, prediction in zip(names, predictions, strict=True)
        for key in ("pred_logits", "pred_masks")
    }
    actual |= {name: capture.outputs[module].transpose(0, 1) for name, module in ffn.items()}
    for name, module in cross.items():
        visible = capture.inputs[module][4][:, 0]
        comparison.equal(name, ~visible, case.unpacked(name, visible.shape))
    if config["training"]:
        scalar = sum(
            (prediction[f"pred_{kind}"] * generated(f"z('{case.name}.g{kind}{i}', {shape})")).sum()
            for i, prediction in enumerate(predictions)
            for kind in ("logits", "masks")
            for shape in [list(prediction[f"pred_{kind}"].shape)]
        )
        scalar.backward()
        comparison.close("scalar", scalar, case.info["scalar"], 1e-6, scaled=True)
        actual |= {f"grad_{name}": value.grad for name, value in inputs.items()}
        for name, norm in case.info["grad_norms"].items():
            gradient = decoder.get_parameter(name).grad
            comparison.close(f"norm {name}", gradient.norm(), norm, 1e-6, scaled=True)
    for name, value in actual.items():
        expected = case.arrays.get(name)
        if expected is not None:
            tolerance = first_number(case.info["tolerance"])
            comparison.close(name, case.sampled(name, value), expected, tolerance, scaled=True)
    comparison.require_results(case.arrays, results=r"pred_.*|dec\d+|blocked.*|grad_.*", inputs="")
    comparison.check()
