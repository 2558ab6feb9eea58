"""The network, block by block: tokens, masks of attention, logits of every prediction."""

import pytest
import torch

import eomt.network
from parity.eomt.model import build_network, fill_network, normalized_images
from parity.golden import first_number, parametrize_cases

RESULTS = r"(mask|class)_logits\d|visible\d|tokens_\w+|upscaled"


class Recorder:
    """Keeps the inputs of the blocks, the output of the last one, and the masks of attention."""

    def __init__(self, network, monkeypatch: pytest.MonkeyPatch):
        self.inputs, self.visible = {}, []
        for index, block in enumerate(network.backbone.blocks):
            block.register_forward_pre_hook(
                lambda _, args, index=index: self.inputs.setdefault(index, args[0])
            )
        block.register_forward_hook(lambda _, args, output: setattr(self, "end", output))
        network.upscale.register_forward_hook(
            lambda _, args, output: setattr(self, "upscaled", output)
        )
        release = eomt.network.release

        def recorded(*arguments):
            self.visible.append(release(*arguments))
            return self.visible[-1]

        monkeypatch.setattr(eomt.network, "release", recorded)


@parametrize_cases("eomt", "eomt_forward_")
@torch.no_grad()
def test_forward(case, comparison, monkeypatch):
    config, arrays = case.config, case.arrays
    network = build_network(config)
    dinov3 = config["family"] == "dinov3"
    fill_network(network, dinov3=dinov3)
    draws = iter(sorted(name for name in arrays if name.startswith("draw")))
    network.draw_uniform = lambda *size, device: torch.from_numpy(arrays[next(draws)])
    recorder = Recorder(network, monkeypatch)

    images = normalized_images(case)
    predictions = network(images, masked_attention=config["masked_attention"])

    # The rotary table of timm is of other rounding.
    tolerance = 1e-5 if dinov3 else first_number(case.info["tolerance"])

    def close(name, actual):
        actual = case.sampled(name, actual)
        comparison.close(name, actual, arrays[name], tolerance, scaled=True)

    for index, prediction in enumerate(predictions):
        close(f"class_logits{index}", prediction.class_logits)
        close(f"mask_logits{index}", prediction.mask_logits)
    blocks = {"tokens_first": 0, "tokens_with_queries": network.first_block}
    blocks |= {f"tokens_block{i}": i for i in range(network.first_block, len(recorder.inputs))}
    for name, index in blocks.items():
        if name in arrays:
            close(name, recorder.inputs[index])
    close("tokens_end", recorder.end)
    close("upscaled", recorder.upscaled)
    # Blocks whose queries are all released are not masked at all.
    masked = [i for i, p in enumerate(config["attn_mask_probs"]) if p > 0]
    recorded = dict(zip(masked, recorder.visible, strict=False))
    for name in sorted(name for name in arrays if name.startswith("visible")):
        index = int(name.removeprefix("visible"))
        shape = case.info["arrays"][name]["shape"]
        visible = recorded.get(index, torch.ones(shape, dtype=torch.bool))
        comparison.equal(name, visible, case.unpacked(name, shape))
    assert next(draws, None) is None or 0.0 in config["attn_mask_probs"]
    comparison.require_results(arrays, results=RESULTS, inputs=r"image|draw\d")
    comparison.check()
