import math

import pytest
import torch

from segcore.layers import MSDeformAttn

SHAPES = [(4, 5), (2, 3)]
TOKENS = 26


def make_inputs(coordinates=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 7, 16, generator=generator).to(dtype)
    reference = torch.rand(2, 7, 2, coordinates, generator=generator)
    value = torch.randn(2, TOKENS, 16, generator=generator).to(dtype)
    return query, reference, value, SHAPES


def make_module(**options):
    """With random offsets and weights, which start at zero otherwise."""
    torch.manual_seed(0)
    module = MSDeformAttn(16, num_levels=2, num_heads=4, num_points=3, **options)
    torch.nn.init.normal_(module.sampling_offsets.weight, std=0.3)
    torch.nn.init.normal_(module.attention_weights.weight)
    return module


def by_hand(module, query, reference, value, shapes):
    """Deformable DETR (Zhu et al., 2021), equation 3, sample by sample."""
    heads, levels, points = module.num_heads, module.num_levels, module.num_points
    values = module.value_proj(value)
    offsets = module.sampling_offsets(query).view(*query.shape[:2], heads, levels, points, 2)
    logits = module.attention_weights(query).view(*query.shape[:2], heads, levels * points)
    weights = logits.softmax(-1).view(*query.shape[:2], heads, levels, points)
    width = query.shape[-1] // heads
    output = torch.zeros_like(query)
    for n, q, m, l, p in torch.cartesian_prod(  # noqa: E741
        *map(torch.arange, (*query.shape[:2], heads, levels, points))
    ).tolist():
        rows, columns = shapes[l]
        offset, center = offsets[n, q, m, l, p], reference[n, q, l, :2]
        if reference.shape[-1] == 4:
            x, y = center + offset / points * reference[n, q, l, 2:] * 0.5
        else:
            x, y = center + offset / torch.tensor([columns, rows])
        x, y = x.item() * columns - 0.5, y.item() * rows - 0.5
        start = sum(h * w for h, w in shapes[:l])
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < rows and 0 <= column < columns:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[n, q, m, l, p]
                    cell = values[n, start + row * columns + column, m * width : (m + 1) * width]
                    output[n, q, m * width : (m + 1) * width] += share * cell
    return module.output_proj(output)


@pytest.mark.parametrize("coordinates", [2, 4])
@torch.no_grad()
def test_matches_the_equation(coordinates):
    module = make_module().double()
    inputs = make_inputs(coordinates, torch.float64)
    torch.testing.assert_close(module(*inputs), by_hand(module, *inputs), rtol=1e-6, atol=1e-6)


def test_names_and_initial_values():
    module = MSDeformAttn(32, num_levels=3, num_heads=8, num_points=4)
    assert {name: tuple(entry.shape) for name, entry in module.state_dict().items()} == {
        "sampling_offsets.weight": (192, 32),
        "sampling_offsets.bias": (192,),
        "attention_weights.weight": (96, 32),
        "attention_weights.bias": (96,),
        "value_proj.weight": (32, 32),
        "value_proj.bias": (32,),
        "output_proj.weight": (32, 32),
        "output_proj.bias": (32,),
    }
    offsets = module.sampling_offsets.bias.view(8, 3, 4, 2)
    torch.testing.assert_close(offsets[0, 1, 2], torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(offsets[1, 2, 3], torch.tensor([4.0, 4.0]))
    bound = math.sqrt(6 / 64)
    assert 0.9 * bound < module.value_proj.weight.abs().max() <= bound


def test_padding_counts_as_zero():
    module = make_module()
    query, reference, value, shapes = make_inputs()
    mask = torch.zeros(2, TOKENS, dtype=torch.bool)
    mask[1, ::3] = True
    other = torch.where(mask[..., None], 100 * torch.randn_like(value), value)
    masked = module(query, reference, value, shapes, mask)
    torch.testing.assert_close(module(query, reference, other, shapes, mask), masked)
    assert not torch.allclose(module(query, reference, value, shapes), masked)


@pytest.mark.parametrize("queries", [0, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_few_queries_project_what_they_read(queries, padded):
    """In inference on a CPU; a hook of the projection still sees all values."""
    shapes = [(40, 50), (9, 11)]
    module = make_module().double()
    torch.nn.init.normal_(module.value_proj.bias)
    query, reference, *_ = make_inputs(4, torch.float64)
    query, reference = query[:, :queries], reference[:, :queries].double() * 1.2
    value = torch.randn(2, 2099, 16, dtype=torch.float64)
    mask = torch.rand(2, 2099) < 0.3 if padded else None
    expected = module(query, reference, value, shapes, mask)
    with torch.no_grad():
        actual = module(query, reference, value, shapes, mask)
        rows = []
        module.value_proj.register_forward_hook(lambda *call: rows.append(call[2].shape[1]))
        hooked = module(query, reference, value, shapes, mask)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(hooked, expected)
    assert sum(rows) == value.shape[1]


def test_float64_with_float32_reference_points():
    module = make_module().double()
    query, reference, value, shapes = make_inputs(dtype=torch.float64)
    assert reference.dtype == torch.float32
    output = module(query, reference, value, shapes)
    assert output.dtype == torch.float64
    torch.testing.assert_close(output, module(query, reference.double(), value, shapes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_references_stay_float32(dtype, monkeypatch):
    """Offsets and logits have the type of the query; locations are computed in float32."""
    seen = {}

    def spy(value, shapes, references, offsets, logits):
        seen.update(value=value.dtype, references=references.dtype)
        seen.update(offsets=offsets.dtype, logits=logits.dtype)
        return value.new_zeros(*references.shape[:2], value.shape[2] * value.shape[3])

    monkeypatch.setattr("segcore.layers.ms_deform_attn.ms_deform_attn_with_logits", spy)
    expected = dict.fromkeys(("value", "references"), torch.float32)
    expected |= dict.fromkeys(("offsets", "logits"), dtype)
    output = make_module().to(dtype)(*make_inputs(dtype=dtype))
    assert output.dtype == dtype
    assert seen == expected
    with torch.autocast("cpu", dtype=dtype):
        make_module()(*make_inputs())
    assert seen == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_trains(dtype):
    module = make_module()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(*make_inputs(dtype=dtype)).float().square().mean()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    assert module.sampling_offsets.weight.grad.abs().sum() > 0


def test_shapes_as_tensor_and_without_queries():
    module = make_module()
    query, reference, value, shapes = make_inputs()
    output = module(query, reference, value, shapes)
    assert torch.equal(module(query, reference, value, torch.tensor(shapes)), output)
    assert module(query[:, :0], reference[:, :0], value, shapes).shape == (2, 0, 16)


def test_compiles_without_graph_break():
    module = make_module()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*make_inputs()), module(*make_inputs()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "embed_dim: expected a multiple of 5"),
        ({"num_points": 0}, "num_points: expected at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MSDeformAttn(16, **options)


@pytest.mark.parametrize(
    ("position", "edit", "error", "message"),
    [
        (0, lambda q: q[..., :8], ValueError, r"query: expected shape \(N, tokens, 16\)"),
        (1, lambda r: r[:, :, :1], ValueError, "reference_points: expected shape"),
        (1, lambda r: torch.cat([r, r[..., :1]], -1), ValueError, "reference_points"),
        (2, lambda v: v[0], ValueError, "value: expected shape"),
        (2, lambda v: v[:, 1:], ValueError, "spatial_shapes: .* have 26 cells, value has 25"),
        (2, lambda v: v[:1], ValueError, "reference_points: expected shape"),
        (3, lambda s: s[:1], ValueError, "spatial_shapes: expected 2 levels, got 1"),
        (4, lambda _: torch.zeros(2, 3, dtype=torch.bool), ValueError, "padding_mask: expected"),
        (4, lambda _: torch.zeros(2, TOKENS), TypeError, "padding_mask: expected bool"),
    ],
)
def test_bad_arguments_are_named(position, edit, error, message):
    arguments = [*make_inputs(), None]
    arguments[position] = edit(arguments[position])
    with pytest.raises(error, match=message):
        make_module()(*arguments)
