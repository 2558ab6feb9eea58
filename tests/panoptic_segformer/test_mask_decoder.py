import pytest
import torch
import torch.nn.functional as F

from panoptic_segformer.mask_decoder import AttentionMask, MaskAttention, MaskDecoder

LEVELS = [(5, 7), (3, 4), (2, 2)]
TOKENS = 35 + 12 + 4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def decoder(**options):
    defaults = {"num_layers": 2, "self_attention": True, "num_heads": 2, "feedforward_dim": 8}
    return MaskDecoder(16, **(defaults | options)).double()


def inputs(queries=3, batch=2):
    return torch.randn(batch, queries, 16).double(), torch.randn(batch, TOKENS, 16).double()


def test_mask_by_the_words_of_the_paper():
    """All heads of a level through a layer, resized, joined, through another layer."""
    module = AttentionMask(16, 2).double()
    queries, memory = inputs()
    logits = torch.stack(
        [
            module.q(queries)[..., part] @ module.k(memory)[..., part].transpose(1, 2) / 8**0.5
            for part in (slice(0, 8), slice(8, 16))
        ],
        dim=-1,
    )
    maps = []
    for size, level, linear in zip(
        LEVELS, logits.split([35, 12, 4], dim=2), module.mask_level, strict=True
    ):
        level = linear(level).relu().permute(0, 1, 3, 2).unflatten(3, size)
        level = F.interpolate(level.flatten(0, 1), LEVELS[0], mode="bilinear")
        maps.append(level.unflatten(0, (2, 3)))
    expected = module.mask_fuse(torch.cat(maps, dim=2).movedim(2, -1)).squeeze(-1).relu()
    assert (expected > 0).any()
    torch.testing.assert_close(module(queries, memory, LEVELS), expected)


def test_attention_with_and_without_mask():
    module = MaskAttention(16, 2).double()
    queries, memory = inputs()
    read, mask = module(queries, memory, LEVELS)
    weights = module.attention(queries, memory)
    assert weights.shape == (2, 2, 3, TOKENS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 3).double())
    values = module.heads(module.v(memory))
    expected = module.proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(read, expected)
    alone, no_mask = module(queries, memory, LEVELS, False)
    assert no_mask is None and mask.shape == (2, 3, 5, 7)
    torch.testing.assert_close(alone, read)


@pytest.mark.parametrize("self_attention", [True, False])
def test_only_the_last_mask(self_attention):
    module = decoder(self_attention=self_attention)
    queries, memory = inputs()
    position = torch.randn(3, 16).double()
    masks, hidden = module(queries, position, memory, LEVELS)
    last, same = module(queries, position, memory, LEVELS, all_masks=False)
    assert len(masks) == 3 and len(last) == 1 and len(hidden) == len(same) == 2
    torch.testing.assert_close(last[0], masks[-1])
    torch.testing.assert_close(same, hidden)
    moved, _ = module(queries + position, None, memory, LEVELS, all_masks=False)
    assert not torch.allclose(moved[0], last[0])  # a position comes anew in each block


def test_queries_are_independent_without_self_attention():
    module = decoder(self_attention=False)
    queries, memory = inputs()
    both = module(queries, None, memory, LEVELS).masks[-1]
    one = module(queries[:, :1], None, memory, LEVELS).masks[-1]
    torch.testing.assert_close(both[:, :1], one)


def test_no_queries():
    module = decoder(self_attention=False)
    queries, memory = inputs(queries=0)
    masks, _ = module(queries, None, memory, LEVELS)
    assert [tuple(mask.shape) for mask in masks] == [(2, 0, 5, 7)] * 3
    sum(mask.sum() for mask in masks).backward()
    unused = {name for name, p in module.named_parameters() if p.grad is None}
    assert not unused


def test_recomputing_changes_no_gradient():
    queries, memory = inputs()
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(1)
        module = decoder(recompute=recompute)
        place = torch.zeros(3, 16).double()
        memory.grad = None
        masks, hidden = module(queries, place, memory.requires_grad_(), LEVELS)
        (sum(mask.square().sum() for mask in masks) + hidden[-1].sum()).backward()
        gradients.append([memory.grad, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*gradients)
