"""The whole segmentation network: photo to class and mask logits, with what lies between."""

import numpy as np
import torch
from torch import Tensor, nn

from parity.autofocusformer.model import build_model_for_case, input_batch
from parity.golden import fill_model, parametrize_cases
from parity.mask2former.capture import Capture
from segcore.ops import take

HEAD = "sem_seg_head"
PIXEL_DECODER = f"{HEAD}.pixel_decoder"
PREDICTOR = f"{HEAD}.predictor"
RESULTS = r"(pred|aux)_(logits|masks).*|res\d_(feat|pos)|mask_features.*"


class Calls:
    """Within the context, keeps the input and the output of each call of a module."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def __enter__(self) -> "Calls":
        self._hook = self._module.register_forward_hook(self._keep)
        return self

    def _keep(self, module, inputs, output) -> None:
        self.inputs.append(inputs[0])
        self.outputs.append(output)

    def __exit__(self, *exception) -> None:
        self._hook.remove()


@parametrize_cases("autofocusformer", "segment_")
@torch.no_grad()
def test_segment(case, comparison):
    model = build_model_for_case(case.info)
    fill_model(model)
    predictor = model.get_submodule(PREDICTOR).train()  # for the auxiliary predictions
    with (
        Capture(model, ["backbone", f"{PIXEL_DECODER}.transformer", PREDICTOR]) as capture,
        Calls(predictor.decoder_norm) as states,
        Calls(predictor.mask_embed) as mask_embeddings,
    ):
        outputs = model.sem_seg_head(model.backbone(input_batch(case)))

    features = capture.outputs["backbone"]
    levels, mask_features = capture.inputs[PREDICTOR]
    actual = {f"{name}_feat": tokens.features for name, tokens in features.items()}
    for number, level in enumerate(capture.outputs[f"{PIXEL_DECODER}.transformer"]):
        actual[f"encoder_level{number}"] = level.features
    actual["mask_features_every32"] = mask_features.features
    actual["query_state_every10"] = torch.stack(states.inputs, 1)
    actual["pred_logits"] = outputs["pred_logits"]
    actual["pred_masks_every8"] = outputs["pred_masks"]
    for name, key in (("aux_logits_every10", "pred_logits"), ("aux_masks_every25", "pred_masks")):
        actual[name] = torch.stack([aux[key] for aux in outputs["aux_outputs"]], 1)

    for name, tokens in features.items():
        comparison.equal(f"{name}_pos", tokens.positions, case.arrays[f"{name}_pos"])
    blocked = blocked_tokens(mask_embeddings.outputs, levels, mask_features)
    comparison.equal("blocked_tokens_per_query", blocked, case.arrays["blocked_tokens_per_query"])
    strides = case.info["strides"]
    for name, tensor in actual.items():
        expected = case.arrays[name]
        step = strides["resI_feat"][name[:4]] if name.endswith("_feat") else strides.get(name)
        tensor = sampled(name, tensor, step)[tuple(map(slice, expected.shape))]
        comparison.close(
            name,
            tensor,
            expected,
            case.info["atol_if_run_in_float64"],
            relative=case.info["rtol"],
        )
    comparison.require_results(case.arrays, results=RESULTS, inputs=".*_rgb")
    comparison.check()


def blocked_tokens(mask_embeddings: list[Tensor], levels, mask_features) -> Tensor:
    """How many tokens of its level lie outside each query's mask: (B, predictions, Q)."""
    pixels = mask_features.map().flatten(2).transpose(1, 2)
    counts = []
    for prediction, embedding in enumerate(mask_embeddings):
        level = take(pixels, levels[prediction % len(levels)].cells)
        counts.append((embedding @ level.mT < 0).sum(-1))
    return torch.stack(counts, 1)


def sampled(name: str, tensor: Tensor, step) -> np.ndarray:
    """What of a full array a case holds; ``step``: of tokens, or by the name of a dimension."""
    if step is None:
        return tensor.numpy()
    if isinstance(step, int):
        return tensor[:, ::step].numpy()
    if "predictions" in step:
        tensor = tensor[:, step["predictions"]]
    dims = {"query": -2, "class": -1} if "mask" not in name else {"query": -3, "row": -2, "col": -1}
    for dimension, position in dims.items():
        if dimension in step:
            index = torch.arange(0, tensor.shape[position], step[dimension])
            tensor = tensor.index_select(position, index)
    return tensor.numpy()
