import pytest
import torch

from autofocusformer.downsampling import (
    AdaptiveDownsampling,
    NeighborhoodMerge,
    grid_prior,
    on_grid,
)
from autofocusformer.tokens import Tokens, grid_positions
from segcore.ops import ClusterNeighborhood, take


def downsampling(**options):
    torch.manual_seed(0)
    defaults = {"stride": 2, "alpha": 4.0, "rate": 0.25, "reserve": True}
    return AdaptiveDownsampling(6, 10, **(defaults | options))


def full_grid(canvas, batch=1):
    height, width = canvas
    positions = grid_positions(canvas).expand(batch, -1, -1)
    return Tokens(torch.randn(batch, height * width, 6), positions, canvas)


def test_kept_are_the_best_then_the_reserved(scatter):
    tokens = scatter((12, 12), 144, 6)
    importance = torch.rand(2, 144)
    indices = downsampling().select(tokens, importance)
    assert indices.shape == (2, 36)
    score = on_grid(tokens.positions, 2).float() + 4 * importance
    reserved = on_grid(tokens.positions, 4)
    for image in range(2):
        chosen, coarse = indices[image, :27], indices[image, 27:]
        assert torch.equal(coarse, reserved[image].nonzero().squeeze(1))
        assert torch.equal(chosen, chosen.sort().values)
        free = score[image].masked_fill(reserved[image], -1)
        assert torch.equal(chosen, free.topk(27).indices.sort().values)


def test_equal_scores_go_to_the_lower_index():
    tokens = full_grid((8, 8))
    indices = downsampling(reserve=False).select(tokens, torch.full((1, 64), 0.5))
    assert torch.equal(indices, on_grid(tokens.positions, 2)[0].nonzero().T)
    constant = downsampling(reserve=False, rate=0.5).select(tokens, torch.full((1, 64), 0.5))
    others = [cell for cell in range(64) if cell not in set(indices[0].tolist())]
    assert constant[0].tolist() == sorted([*indices[0].tolist(), *others[:16]])


def test_no_fewer_are_kept_than_reserved():
    tokens = full_grid((5, 1))
    indices = downsampling(rate=0.1).select(tokens, torch.rand(1, 5))
    assert tokens.positions[0, indices[0]].tolist() == [[0, 0], [0, 4]]
    single = full_grid((1, 1))
    assert downsampling(stride=4).select(single, torch.rand(1, 1)).tolist() == [[0]]
    assert downsampling(reserve=False).select(single, torch.rand(1, 1)).tolist() == [[0]]


@pytest.mark.parametrize(
    ("distance", "stride"),
    [((1, 0), 2), ((1, 1), 4), ((0, 2), 4), ((2, 1), 8), ((3, 0), 8), ((4, 0), 8), ((5, 0), 16)],
)
def test_grid_prior_follows_the_distance_to_the_nearest(distance, stride):
    """Two tokens whose only neighbor is the other: powers of two have no rounding to fear."""
    expected = []
    positions = []
    for start in ((0, 0), (16, 32), (8, 0), (4, 4), (2, 0), (1, 0)):
        near = (start[0] + distance[0], start[1] + distance[1])
        positions.append([start, near])
        expected.append([float(x % stride == 0 and y % stride == 0) for x, y in (start, near)])
    assert grid_prior(torch.tensor(positions).float(), 4).tolist() == expected


def test_grid_prior_of_the_first_stage_is_every_second_cell():
    prior = grid_prior(grid_positions((3, 4))[None], 2)
    assert prior.view(3, 4).tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]]


def test_selection_has_no_gradient_but_merging_has(scatter):
    tokens = scatter((12, 12), 144, 6)
    tokens = tokens.with_features(tokens.features.requires_grad_())
    importance = torch.rand(2, 144, requires_grad=True)
    module = downsampling()
    merged = module(tokens, importance, ClusterNeighborhood.global_attention(2, 144))
    assert merged.features.shape == (2, 36, 10)
    indices = module.select(tokens, importance)
    assert torch.equal(merged.positions, take(tokens.positions, indices))
    merged.features.square().sum().backward()
    assert importance.grad.abs().min() > 0
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_sign_of_the_offsets(scatter):
    """Mirrored positions with the opposite sign are the same."""
    tokens = scatter((6, 6), 20, 6)
    members = torch.randint(20, (2, 20, 5))
    torch.manual_seed(0)
    merge = NeighborhoodMerge(6, 8, center_minus_member=True)
    opposite = NeighborhoodMerge(6, 8)
    opposite.load_state_dict(merge.state_dict())
    mirrored = Tokens(tokens.features, 5 - tokens.positions, tokens.canvas)
    torch.testing.assert_close(
        merge.merge(tokens, tokens.positions, members),
        opposite.merge(mirrored, mirrored.positions, members),
    )
    assert not torch.allclose(
        merge.merge(tokens, tokens.positions, members),
        opposite.merge(tokens, tokens.positions, members),
    )
