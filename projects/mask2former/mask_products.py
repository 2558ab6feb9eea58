"""Masks as products of query and pixel embeddings."""

import torch
from torch import Tensor, nn

from segcore.layers import linear
from segcore.layers.by_rows import takes_rows


def mask_logits(
    mask_embedding: Tensor, mask_features: Tensor, projection: nn.Module | None = None
) -> Tensor:
    """Products of query (B, Q, D) and pixel embeddings (B, C, H, W): (B, Q, H, W)."""
    products = mask_products(mask_embedding, mask_features.flatten(2), projection)
    return products.unflatten(2, mask_features.shape[2:])


def mask_products(
    mask_embedding: Tensor, mask_features: Tensor, projection: nn.Module | None = None
) -> Tensor:
    """Products of query (B, Q, D) and token embeddings (B, C, S): (B, Q, S).

    Args:
        projection: the layer of weight W (D, C, ...) and bias b that makes embeddings of
            ``mask_features`` x; None: they are the embeddings. As products are linear,
            E (W x + b) = (E W) x + E b: of few queries E W takes less time than W x of all tokens.
    """
    if projection is None:
        return _products(mask_embedding, mask_features)
    folded = linear(mask_embedding, projection.weight.flatten(1).t())
    return _products(folded, mask_features).add_((mask_embedding @ projection.bias)[..., None])


def can_fold(projection: nn.Module) -> bool:
    """Whether :func:`mask_products` may take the layer that makes embeddings of pixels: at
    inference on a CPU, if no hook waits for its output."""
    return (
        takes_rows(projection.weight)
        and not torch.jit.is_tracing()
        and not (projection.training or projection._forward_hooks or projection._forward_pre_hooks)
    )


def _products(mask_embedding: Tensor, mask_features: Tensor) -> Tensor:
    if mask_features.device.type != "cpu" or torch.compiler.is_compiling():
        return mask_embedding @ mask_features
    # Each image's tokens are the weight of a linear layer, whose product is the faster one.
    tokens = mask_features.transpose(1, 2)
    if len(tokens) == 1:  # neither the product nor a gradient is copied
        return linear(mask_embedding.squeeze(0), tokens.squeeze(0)).unsqueeze(0)
    return torch.stack(
        [linear(queries, image) for queries, image in zip(mask_embedding, tokens, strict=True)]
    )
