"""Neighborhoods of tokens made of whole clusters (AutoFocusFormer, Ziwen et al., CVPR 2023)."""

import torch
from torch import Tensor

from ._checks import check_dims
from .take import take


class ClusterNeighborhood:
    """Clusters whose tokens each token sees; shared by all blocks of a stage.

    Cluster ``j`` holds the tokens ``j * cluster_size`` up to, but not including,
    ``(j + 1) * cluster_size``: tokens are in the order of their clusters. The last cluster may be
    part-filled.

    Args:
        clusters: (B, N, R) integers: indices of the clusters that each of N tokens sees, 0 up to,
            but not including, ``num_clusters``
        cluster_size: tokens a cluster

    Raises:
        TypeError, ValueError: an argument has a wrong type or shape
    """

    def __init__(self, clusters: Tensor, cluster_size: int):
        if not isinstance(clusters, Tensor) or clusters.dtype not in (torch.int32, torch.int64):
            got = getattr(clusters, "dtype", type(clusters).__name__)
            raise TypeError(f"clusters: expected an int32 or int64 tensor, got {got}")
        check_dims("clusters", clusters, ("B", "N", "R"))
        if not isinstance(cluster_size, int | torch.SymInt) or cluster_size < 1:
            raise ValueError(f"cluster_size: expected an integer of at least 1, got {cluster_size}")
        self.clusters = clusters.to(torch.int32).contiguous()
        self.cluster_size = cluster_size
        self._inverse_lists: tuple[Tensor, Tensor] | None = None

    @classmethod
    def global_attention(cls, batch: int, num_tokens: int, *, device=None) -> "ClusterNeighborhood":
        """Return the neighborhood of global attention: one cluster of all tokens."""
        clusters = torch.zeros(batch, num_tokens, 1, dtype=torch.int32, device=device)
        return cls(clusters, max(num_tokens, 1))

    @property
    def num_tokens(self) -> int:
        """Number of tokens N of an image."""
        return self.clusters.shape[1]

    @property
    def num_clusters(self) -> int:
        """Number of clusters of an image, ceil(N / cluster_size)."""
        return -(-self.num_tokens // self.cluster_size)

    @property
    def num_members(self) -> int:
        """Number m = R * cluster_size of slots of a token's neighborhood, empty ones included."""
        return self.clusters.shape[2] * self.cluster_size

    def members(self, tokens: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the neighborhoods token by token.

        Args:
            tokens: (B, Q) integers: neighborhoods of these tokens only, instead of all N

        Returns:
            (B, Q, m) int64 tokens of the clusters, one cluster after the other, 0 in empty slots;
            (B, Q, m) bool, False in empty slots, or None if there are no empty slots
        """
        clusters = self.clusters if tokens is None else take(self.clusters, tokens)
        slots = torch.arange(self.cluster_size, device=clusters.device)
        members = (clusters.long()[..., None] * self.cluster_size + slots).flatten(2)
        remainder = self.num_tokens % self.cluster_size
        # With symbolic sizes it is left open whether there are empty slots.
        if not isinstance(remainder, torch.SymInt) and remainder == 0:
            return members, None
        valid = members < self.num_tokens
        return torch.where(valid, members, 0), valid

    def inverse_lists(self) -> tuple[Tensor, Tensor]:
        """Return the tokens that see each cluster, in compressed rows (CSR); built once.

        Returns:
            indices (B, N * R) int32: tokens that see a cluster in ascending order, cluster after
            cluster; offsets (B, num_clusters + 1) int64: bounds of each cluster in the indices
        """
        if self._inverse_lists is None:
            self._inverse_lists = self._invert()
        return self._inverse_lists

    def _invert(self) -> tuple[Tensor, Tensor]:
        clusters_per_token = self.clusters.shape[2]
        clusters, order = self.clusters.flatten(1).sort(dim=1, stable=True)
        indices = order.div(max(clusters_per_token, 1), rounding_mode="floor").to(torch.int32)
        bounds = torch.arange(self.num_clusters + 1, dtype=torch.int32, device=clusters.device)
        bounds = bounds.expand(len(clusters), -1).contiguous()
        return indices, torch.searchsorted(clusters, bounds)
