import pytest
import torch

from panoptic_segformer.location_decoder import LocationDecoder

LEVELS = [(4, 6), (2, 3)]
TOKENS = 24 + 6


def decoder(**options):
    torch.manual_seed(0)
    defaults = {"num_queries": 5, "num_classes": 3, "num_layers": 3, "num_levels": 2}
    attention = {"num_heads": 2, "feedforward_dim": 8, "dropout": 0.0}
    return LocationDecoder(16, **(defaults | attention | options)).double()


def memory(batch=2):
    return torch.randn(batch, TOKENS, 16, generator=torch.Generator().manual_seed(1)).double()


def ones(batch=2):
    return torch.ones(batch, 2, 2).double()


def test_layers():
    location = decoder()(memory(), LEVELS, ones())
    assert [tuple(logits.shape) for logits in location.logits] == [(2, 5, 3)] * 3
    assert [tuple(boxes.shape) for boxes in location.boxes] == [(2, 5, 4)] * 3
    assert location.queries.shape == (2, 5, 16)


def test_boxes_start_at_the_reference_points_and_small():
    module = decoder()
    position = module.query_embed.weight[:, :16]
    location = module(memory(), LEVELS, ones())
    expected = module.reference_points(position).sigmoid()
    for boxes in location.boxes:  # nothing has been learned
        torch.testing.assert_close(boxes[0, :, :2], expected, atol=1e-9, rtol=0)
        sizes = torch.full((2, 5, 2), -2.0, dtype=torch.float64).sigmoid()
        torch.testing.assert_close(boxes[..., 2:], sizes, atol=1e-9, rtol=0)


def test_layers_do_not_see_gradients_of_the_boxes_after_them():
    module = decoder()
    for branch in module.bbox_embed:
        torch.nn.init.normal_(branch.layers[-1].weight)
    location = module(memory(), LEVELS, ones())
    location.boxes[-1].sum().backward()
    assert module.bbox_embed[0].layers[-1].weight.grad is None
    assert module.bbox_embed[2].layers[-1].weight.grad.any()
    assert module.reference_points.weight.grad.any()  # through the first cross-attention


def test_centers_only():
    location = decoder(num_coordinates=2)(memory(), LEVELS, ones())
    assert [tuple(boxes.shape) for boxes in location.boxes] == [(2, 5, 2)] * 3


@pytest.mark.parametrize("num_coordinates", [4, 2])
def test_padding_changes_nothing(num_coordinates):
    module = decoder(num_coordinates=num_coordinates)
    for branch in module.bbox_embed:
        torch.nn.init.normal_(branch.layers[-1].weight)
    alone = module(memory(1), LEVELS, ones(1))
    padded, mask = torch.full((1, 48 + 20, 16), 9.0).double(), torch.ones(1, 48 + 20).bool()
    sizes = [(6, 8), (4, 5)]
    for tokens, start, (height, width), (_, stride) in zip(
        memory(1).split([24, 6], dim=1), (0, 48), LEVELS, sizes, strict=True
    ):
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        valid = (start + rows * stride + columns).flatten()
        padded[:, valid], mask[:, valid] = tokens, False
    ratios = torch.tensor([[[6 / 8, 4 / 6], [3 / 5, 2 / 4]]]).double()
    found = module(padded, sizes, ratios, mask)
    torch.testing.assert_close(found.queries, alone.queries, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.boxes[-1], alone.boxes[-1], atol=1e-6, rtol=0)


def test_half_precision_keeps_locations_exact():
    module = decoder().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        location = module(memory().float(), LEVELS, ones().float())
    assert location.boxes[-1].dtype == torch.float32
