import pytest
import torch

from autofocusformer.deformable_attention import PointDeformAttn, TokenLevels


def test_nearest_tokens_of_each_cell(scatter):
    levels = TokenLevels.from_tokens([scatter((4, 5), 6, 3, seed=1), scatter((4, 5), 2, 3, seed=2)])
    assert levels.neighbors.shape == (2, 2, 20, 4)
    assert levels.sizes == [6, 2]
    few = levels.neighbors[:, 1]
    assert (few[..., 2:] == -1).all() and set(few[..., :2].unique().tolist()) == {6, 7}
    cells = torch.stack((torch.arange(20) % 5, torch.arange(20) // 5), -1).float().expand(2, -1, -1)
    distances = torch.cdist(cells, levels.positions[:, :6]).sort(dim=-1).values[..., :4]
    for image in range(2):
        near = levels.positions[image, levels.neighbors[image, 0]]
        torch.testing.assert_close((near - cells[image][:, None]).norm(dim=-1), distances[image])


def test_interpolation_meets_the_tokens_and_stays_between(scatter):
    level, other = scatter((5, 6), 9, 4, seed=1), scatter((5, 6), 3, 4, seed=2)
    finest = scatter((5, 6), 30, 4, seed=3)
    for tokens in (level, other):
        levels = TokenLevels.from_tokens([other, tokens])
        values = levels.interpolate(1, tokens.features, finest)
        for image in range(2):
            value_of = dict(zip(finest.cells[image].tolist(), values[image], strict=True))
            for cell, feature in zip(
                tokens.cells[image].tolist(), tokens.features[image], strict=True
            ):
                torch.testing.assert_close(value_of[cell], feature)
        assert (values.amax((1, 2)) <= tokens.features.amax((1, 2)) + 1e-5).all()


def test_canvases_must_agree(scatter):
    with pytest.raises(ValueError, match=r"one canvas for all, got \[\(4, 5\), \(5, 4\)\]"):
        TokenLevels.from_tokens([scatter((4, 5), 6, 3), scatter((5, 4), 6, 3)])


@pytest.mark.parametrize("learnable", [True, False])
def test_power_is_trained_only_if_learnable(scatter, learnable):
    torch.manual_seed(0)
    attention = PointDeformAttn(8, 2, 2, 4, power=2.0, learnable_power=learnable)
    assert ("shepard_power" in attention.state_dict()) == learnable
    levels = TokenLevels.from_tokens([scatter((6, 6), 4, 8), scatter((6, 6), 20, 8)])
    query = torch.randn(2, 24, 8, requires_grad=True)
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    attention(query, levels.positions, query, levels).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention.parameters())
    if learnable:
        assert attention.shepard_power.grad.abs() > 0


@torch.no_grad()
def test_padding_is_not_seen(scatter):
    torch.manual_seed(0)
    attention = PointDeformAttn(8, 1, 2, 4, power=2.0, learnable_power=False)
    torch.nn.init.constant_(attention.value_proj.bias, 1.0)
    levels = TokenLevels.from_tokens([scatter((6, 6), 20, 8)])
    query, everything = torch.randn(2, 20, 8), torch.ones(2, 20, dtype=torch.bool)
    out = attention(query, levels.positions, query, levels, everything)
    torch.testing.assert_close(out, attention.output_proj.bias.expand_as(out))
