import sys

import pytest
import torch

from operator_inputs import ms_deform_attn_with_logits_inputs
from operator_tester import OperatorTester, permuted
from segcore.ops import (
    ms_deform_attn,
    ms_deform_attn_with_logits,
    ms_deform_attn_with_logits_reference,
)

OPERATORS = (ms_deform_attn_with_logits, ms_deform_attn_with_logits_reference)


class TestMsDeformAttnWithLogits(OperatorTester):
    name = "ms_deform_attn_with_logits"
    differentiable = ("value", "reference_points", "sampling_offsets", "attention_logits")
    tolerance = 1e-4
    channels = (1, 32, 71)
    sizes = (
        {"batch": 1, "heads": 1, "queries": 1, "points": 1, "spatial_shapes": ((1, 1),)},
        {"batch": 3, "heads": 5, "queries": 33, "points": 3, "spatial_shapes": ((7, 1), (1, 9))},
        {"spread": 100.0},
        {"queries": 0},
        {"batch": 0},
        {"points": 0},
        {"channels": 0},
        {"heads": 0},
        {"boxes": True},
        {"boxes": True, "points": 3, "spread": 4.0},
        {"boxes": True, "queries": 0},
    )
    opcheck_sizes = ({"boxes": True}, {"queries": 0})
    parallel_sizes = {"queries": 500, "channels": 33, "boxes": True}  # noqa: RUF012
    layouts = {  # noqa: RUF012
        "value": permuted(0, 3, 2, 1),
        "spatial_shapes": torch.tensor,
        "reference_points": permuted(3, 0, 1, 2),
        "sampling_offsets": permuted(0, 2, 1, 3, 4, 5),
        "attention_logits": permuted(1, 0, 2, 3, 4),
    }
    bad_arguments = (
        ({"value": lambda v: v[0]}, ValueError, r"value: expected shape \(N, S, M, D\)"),
        ({"value": lambda v: v[:, 1:]}, ValueError, "spatial_shapes: .* 44 cells, .* has 43"),
        ({"reference_points": lambda r: r[..., :1]}, ValueError, r"reference_points: .*\(2, 7, 3"),
        ({"reference_points": lambda r: r[:, 1:]}, ValueError, "reference_points: expected"),
        ({"reference_points": lambda r: r.long()}, TypeError, "reference_points: expected one of"),
        ({"sampling_offsets": lambda o: o[..., :1]}, ValueError, "sampling_offsets: expected"),
        ({"sampling_offsets": lambda o: o.flatten(3)}, ValueError, "sampling_offsets: expected"),
        ({"attention_logits": lambda x: x[:, :5]}, ValueError, "attention_logits: expected shape"),
        ({"attention_logits": lambda x: x.to("meta")}, ValueError, "attention_logits: .* device"),
    )
    bad_kernel_arguments = (
        ({"value": lambda v: v[:, 1:]}, "value: has 43 tokens"),
        ({"reference_points": lambda r: r[..., :1]}, "reference_points: expected 2 or 4"),
        ({"reference_points": lambda r: r.float()}, "reference_points: expected Double, got Float"),
        ({"sampling_offsets": lambda o: o[:, :, :1]}, "sampling_offsets: expected size 3 in"),
        ({"sampling_offsets": lambda o: o.half()}, "sampling_offsets: expected Double, got Half"),
        ({"attention_logits": lambda x: x.float()}, "attention_logits: expected Double, got Float"),
    )

    def gradcheck_inputs(self, device):
        sizes = {"batch": 1, "heads": 2, "channels": 2, "queries": 2, "points": 2}
        return self.make_inputs(boxes=True, device=device, **sizes)

    @pytest.mark.parametrize("scale", [1e3, 1e30])
    def test_large_logits(self, scale, device):
        """Whose exponentials alone would be infinite, or all 0."""
        arguments = self.make_inputs(dtype=torch.float32, device=device)
        arguments["attention_logits"] = scale * arguments["attention_logits"]
        self.assert_same(arguments, torch.float32)

    def test_no_level_gives_zeros(self, device):
        arguments = self.make_inputs(spatial_shapes=(), device=device)
        for operator in (self.operator, self.twin):
            assert not operator(**arguments).any()


@pytest.mark.parametrize("operator", OPERATORS)
def test_by_hand(operator):
    """A row of the cells 1 2 3 4, read at the second and, with a quarter of its weight, half a cell
    further; around a point, and around a box of 3 of 4 columns whose edge is 1.5 cells away."""
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    logits = torch.tensor([3.0, 1.0]).log().view(1, 1, 1, 1, 2)
    point = torch.tensor([0.375, 0.5])
    box = torch.tensor([0.375, 0.5, 0.75, 0.4])
    for reference, step in ((point, 0.5), (box, 2 / 3)):
        offsets = torch.tensor([[0.0, 0.0], [step, 0.0]]).view(1, 1, 1, 1, 2, 2)
        output = operator(value, [(1, 4)], reference.view(1, 1, 1, -1), offsets, logits)
        torch.testing.assert_close(output.flatten(), torch.tensor([0.75 * 2 + 0.25 * 2.5]))


def test_mixed_types_are_converted():
    """Offsets and logits of one type, that of value, are read as they are; others in float32."""
    arguments = ms_deform_attn_with_logits_inputs(dtype=torch.bfloat16)
    expected = ms_deform_attn_with_logits(**arguments)
    mixed = arguments | {"sampling_offsets": arguments["sampling_offsets"].float()}
    inputs = [
        mixed["sampling_offsets"].requires_grad_(),
        mixed["attention_logits"].requires_grad_(),
    ]
    output = ms_deform_attn_with_logits(**mixed)
    assert torch.equal(output, expected)
    grads = torch.autograd.grad(output.sum(), inputs)
    assert [grad.dtype for grad in grads] == [torch.float32, torch.bfloat16]


def test_devices_without_its_kernel_use_that_of_the_samples(monkeypatch):
    """As a GPU with Triton alone, which has locations and weights as arguments."""
    calls = []

    def spy(*arguments):
        calls.append(arguments)
        return ms_deform_attn(*arguments)

    module = sys.modules[ms_deform_attn_with_logits.__module__]
    monkeypatch.setattr(module, "ms_deform_attn", spy)
    monkeypatch.setattr("segcore.ops._operator.has_kernel", lambda *_: False)
    arguments = ms_deform_attn_with_logits_inputs()
    expected = ms_deform_attn_with_logits_reference(**arguments)
    torch.testing.assert_close(ms_deform_attn_with_logits(**arguments), expected)
    assert len(calls) == 1
