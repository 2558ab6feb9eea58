"""benchmarks/gpu.py at small sizes on the CPU, and how other libraries are called."""

import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch
from benchmarks import gpu, peers

from segcore.ops import ms_deform_attn

TINY = gpu.Options("cpu", repeats=1, tiny=True, deadline=time.monotonic() + 3600)


@pytest.mark.parametrize("reports", [gpu.deformable_reports, gpu.cluster_reports])
def test_every_implementation_is_measured(reports, monkeypatch):
    monkeypatch.setattr(gpu, "BATCHES", (2,))
    monkeypatch.setattr(gpu, "DTYPES", (torch.float32,))
    missing, *tables = reports(TINY, copy=1e9)
    assert missing.title.startswith("Not here beside ")
    for table in tables:
        rows = {row[2]: row for row in table.rows}
        assert {"ours", "twin", "ours, deterministic"} <= set(rows)
        for row in table.rows:
            assert len(row) == len(table.headers)
        assert float(rows["ours"][3]) > 0 and float(rows["ours"][6]) > 0
        assert float(rows["ours"][-1]) < 1e-4


def test_one_that_fails_is_named(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no kernel\nand more")

    arguments = gpu.deformable_inputs(gpu.TINY_LEVELS, 1, 7, True, torch.float32, "cpu")
    functions = {"ours": ms_deform_attn, "twin": ms_deform_attn.reference, "theirs": fail}
    rows = gpu._compare(functions, arguments, TINY, copy=1e9)
    assert rows[-1][:4] == ("1", "float32", "theirs", "RuntimeError: no kernel")


def test_without_time_nothing_is_measured():
    late = TINY._replace(deadline=0)
    assert [table.rows for table in gpu.deformable_reports(late, 1e9)][1:] == [[], [], [], []]


def kernel(value, sizes, starts, locations, weights, step):
    """Deformable attention with the arguments of the kernels that others use."""
    assert starts.tolist() == [0, 160, 200]
    assert value.dtype == locations.dtype == weights.dtype and 1 <= step <= len(value)
    return ms_deform_attn.reference(value, sizes, locations, weights)


class Layer(torch.nn.Module):
    def forward(self, value, sizes, sizes_list, starts, locations, weights, im2col_step):
        assert sizes.tolist() == [list(size) for size in sizes_list]
        return kernel(value, sizes, starts, locations, weights, im2col_step)


def module(name, **contents):
    made = ModuleType(name)
    vars(made).update(contents)
    return made


@pytest.mark.parametrize(
    ("loader", "modules"),
    [
        (
            peers.mmcv_ms_deform_attn,
            {"mmcv.ops.multi_scale_deform_attn": {
                "MultiScaleDeformableAttnFunction": SimpleNamespace(apply=kernel)}},
        ),
        (
            peers.hub_ms_deform_attn,
            {"kernels": {"get_kernel": lambda name, version: SimpleNamespace(
                layers=SimpleNamespace(MultiScaleDeformableAttention=Layer))}},
        ),
        (
            peers.transformers_ms_deform_attn,
            {"transformers.models.deformable_detr": {"modeling_deformable_detr": SimpleNamespace(
                MultiScaleDeformableAttention=Layer)}},
        ),
    ],
    ids=["mmcv", "hub", "Transformers"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_others_are_called_as_they_want(loader, modules, dtype, monkeypatch):
    for name, contents in modules.items():
        parts = name.split(".")
        for length in range(1, len(parts)):
            parent = ".".join(parts[:length])
            monkeypatch.setitem(sys.modules, parent, module(parent))
        monkeypatch.setitem(sys.modules, name, module(name, **contents))
    arguments = gpu.deformable_inputs(gpu.TINY_LEVELS, 2, 5, False, dtype, "cpu")
    expected = ms_deform_attn(*arguments)
    tolerance = {} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.01}
    torch.testing.assert_close(loader()(*arguments), expected, **tolerance)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_is_that_of_the_clusters():
    q, k, v, positions, around, *rest = gpu.cluster_inputs(2, torch.float32, TINY)
    q, k, v = (rows.detach() for rows in (q, k, v))  # it has no gradient on the CPU
    members, valid = around.members()
    assert valid is None
    mask = torch.zeros(2, q.shape[1], q.shape[1], dtype=torch.bool).scatter_(2, members, True)
    rows = (rows.transpose(1, 2) for rows in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*rows, mask[:, None])
    output = peers.flex_cluster_attention()(q, k, v, positions, around, *rest)
    torch.testing.assert_close(output, expected.transpose(1, 2).flatten(2))
