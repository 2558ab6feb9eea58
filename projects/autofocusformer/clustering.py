"""Neighborhoods of tokens: balanced clusters, and the nearest of them for every token."""

import torch

from autofocusformer.tokens import Tokens
from segcore.ops import ClusterNeighborhood, balanced_clusters, knn, take


@torch.no_grad()
def nearest_clusters(
    tokens: Tokens,
    *,
    cluster_size: int,
    neighborhood_size: int,
    per_image: bool = False,
    same_positions: bool = False,
) -> tuple[torch.Tensor | None, ClusterNeighborhood]:
    """Return the neighborhood of every token (AutoFocusFormer, section 3.1).

    Args:
        tokens: N of each image.
        cluster_size: tokens a cluster.
        neighborhood_size: members that every token sees, rounded to whole clusters; with no more
            tokens than this, all see all.
        per_image: whether an image is independent of the others in its batch.
        same_positions: the positions of all images are known to be the same, as on a full grid.

    Returns:
        The order (B, N) int64 that the tokens have to be brought into for the neighborhood, or
        None if they stay, and the neighborhood.
    """
    batch, count, _ = tokens.positions.shape
    positions = tokens.positions
    if count <= neighborhood_size:
        return None, ClusterNeighborhood.global_attention(batch, count, device=positions.device)
    if same_positions:
        positions = positions[:1]
    if cluster_size == 1:
        order, centers = None, positions
    else:
        order, centers = balanced_clusters(
            positions, cluster_size, tokens.canvas, per_image=per_image
        )
        positions = take(positions, order)
    nearest = min(max(1, round(neighborhood_size / cluster_size)), centers.shape[1])
    clusters = knn(positions, centers, nearest).expand(batch, -1, -1)
    if order is not None:
        order = order.expand(batch, -1)
    return order, ClusterNeighborhood(clusters, cluster_size)
