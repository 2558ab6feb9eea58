"""The pixel decoder alone, from synthetic backbone features, step by step."""

import torch

from parity.golden import fill_model, generated, parametrize_cases
from parity.mask2former.capture import Capture
from parity.mask2former.model import build_model_for_case

ENCODER = "transformer.encoder"
ATTENTION = f"{ENCODER}.layers.0.self_attn"


@parametrize_cases("mask2former", "pixel_decoder_")
@torch.no_grad()
def test_pixel_decoder(case, comparison):
    decoder = build_model_for_case(case.config).sem_seg_head.pixel_decoder
    fill_model(decoder, prefix="sem_seg_head.pixel_decoder.", overrides=case.weight_overrides)
    features = {name: generated(text) for name, text in case.info["inputs"].items()}

    layers = {
        f"enc{i}": f"{ENCODER}.layers.{i}"
        for i in range(len(decoder.get_submodule(ENCODER).layers))
    }
    inner = {
        "msda0": ATTENTION,
        "off0": f"{ATTENTION}.sampling_offsets",
        "aw0": f"{ATTENTION}.attention_weights",
    }
    modules = layers | inner
    with Capture(decoder, [ENCODER, *modules.values()]) as capture:
        mask_features, _, maps = decoder.forward_features(features)

    actual = {name: capture.outputs[module] for name, module in modules.items()}
    tokens, positions, reference_points, *_ = capture.inputs[ENCODER]
    actual |= {"src": tokens, "pos": positions.expand_as(tokens), "ref": reference_points}
    actual |= {"mask_features": mask_features}
    actual |= {f"ms{level}": feature for level, feature in enumerate(maps)}

    for name, expected in case.arrays.items():
        full = actual[name].reshape(len(tokens), -1, *actual[name].shape[2:])
        comparison.close(name, case.sampled(name, full), expected, case.tolerance)
    comparison.check()
