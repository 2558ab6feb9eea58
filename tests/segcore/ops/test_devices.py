"""Every operator without data and under autocast: shapes, types and devices of the results."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import operator_checks as checks
import operator_inputs
from segcore import ops
from segcore.ops._library import is_compiled

DIFFERENTIABLE = {
    "ms_deform_attn": ("value", "sampling_locations", "attention_weights"),
    "ms_deform_attn_with_logits": (
        "value", "reference_points", "sampling_offsets", "attention_logits",
    ),
    "cluster_attention": ("q", "k", "v", "pos_weight", "pos_bias", "blank_k", "blank_v"),
    "point_gather": ("features", "weights"),
    "neighborhood_merge": (
        "features", "importance", "linear_weight", "linear_bias", "norm_weight", "norm_bias",
    ),
    "point_deform_attn": ("values", "locations", "attention", "power"),
}  # fmt: skip
every_operator = pytest.mark.parametrize("name", DIFFERENTIABLE)


def schema_arguments(name):
    """Half values, for the compiled operator."""
    inputs = getattr(operator_inputs, f"{name}_inputs")
    arguments = checks.with_flat_sizes(inputs(dtype=torch.float16))
    if name == "cluster_attention":
        neighborhood = arguments.pop("neighborhood")
        indices, offsets = neighborhood.inverse_lists()
        arguments = {key: arguments[key] for key in ("q", "k", "v", "positions")} | {
            "clusters": neighborhood.clusters,
            "cluster_size": neighborhood.cluster_size,
            **{key: arguments[key] for key in ("pos_weight", "pos_bias", "blank_k", "blank_v")},
            "scale": 0.5,
            "indices": indices,
            "offsets": offsets,
        }
    return arguments


@pytest.mark.parametrize("device", ["meta", "cuda"])
@every_operator
def test_without_data(name, device):
    """As ``torch.compile`` runs operators: forward and backward, also for a GPU that is absent."""
    if not is_compiled(name, "cpu"):
        pytest.skip("segcore/_C.abi3.so has not been built")
    arguments = schema_arguments(name)
    expected = checks.run_kernels(torch.ops.segcore, name, arguments, DIFFERENTIABLE[name])
    with FakeTensorMode():
        fakes = {
            key: torch.empty(value.shape, dtype=value.dtype, device=device)
            if isinstance(value, torch.Tensor)
            else value
            for key, value in arguments.items()
        }
        output = getattr(torch.ops.segcore, name)(*fakes.values())
        grads = getattr(torch.ops.segcore, f"{name}_backward")(output, *fakes.values())
    actual = {"output": output, **dict(zip(DIFFERENTIABLE[name], grads, strict=True))}
    for key, tensor in expected.items():
        assert actual[key].device.type == device, key
        assert (actual[key].shape, actual[key].dtype) == (tensor.shape, tensor.dtype), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_operator
def test_autocast_changes_nothing(name, dtype):
    arguments = getattr(operator_inputs, f"{name}_inputs")(dtype=dtype)
    operator = getattr(ops, name)
    expected = checks.run_with_gradients(operator, arguments, DIFFERENTIABLE[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = checks.run_with_gradients(operator, arguments, DIFFERENTIABLE[name])
    for key, tensor in expected.items():
        assert actual[key].dtype == tensor.dtype and torch.equal(actual[key], tensor), key


@pytest.mark.parametrize(
    "name", ["ms_deform_attn", "ms_deform_attn_with_logits", "point_deform_attn"]
)
def test_deterministic_algorithms_reach_the_kernels(name, monkeypatch):
    """PyTorch's switch is the last argument of a backward that may use atomics."""
    if not is_compiled(name, "cpu"):
        pytest.skip("segcore/_C.abi3.so has not been built")
    arguments = getattr(operator_inputs, f"{name}_inputs")(dtype=torch.float32)
    modes = []
    backward = getattr(torch.ops.segcore, f"{name}_backward")

    def record(*args):
        modes.append(args[-1])
        return backward(*args)

    monkeypatch.setattr(torch.ops.segcore, f"{name}_backward", record)
    for enabled in (False, True):
        torch.use_deterministic_algorithms(enabled)
        try:
            checks.run_with_gradients(getattr(ops, name), arguments, DIFFERENTIABLE[name])
        finally:
            torch.use_deterministic_algorithms(False)
    assert modes == [False, True]
