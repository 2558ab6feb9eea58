"""Which tokens see which: the neighbourhoods of AutoFocusFormer (Ziwen et al., CVPR 2023)."""

import torch
from torch import Tensor

from ._checks import check_dims
from .gather_reference import gather_tokens


class ClusterNeighbourhood:
    """For every token the clusters whose tokens it sees; one for all blocks of a stage.

    Cluster ``j`` holds the tokens ``j * cluster_size`` up to, but not including,
    ``(j + 1) * cluster_size``: tokens are in the order of their clusters. The last cluster may be
    part-filled.

    Args:
        clusters: (B, N, R) integers: numbers of the clusters that each of N tokens sees, 0 up to,
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
        if not isinstance(cluster_size, int) or cluster_size < 1:
            raise ValueError(f"cluster_size: expected an integer of at least 1, got {cluster_size}")
        self.clusters = clusters.to(torch.int32).contiguous()
        self.cluster_size = cluster_size
        self._users: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of_all(cls, batch: int, num_tokens: int, *, device=None) -> "ClusterNeighbourhood":
        """Global attention: one cluster of all tokens, seen by all tokens."""
        clusters = torch.zeros(batch, num_tokens, 1, dtype=torch.int32, device=device)
        return cls(clusters, max(num_tokens, 1))

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.clusters.shape[1]

    @property
    def num_clusters(self) -> int:
        """ceil(N / cluster_size)."""
        return -(-self.num_tokens // self.cluster_size)

    @property
    def num_members(self) -> int:
        """m = R * cluster_size: slots of a token's neighbourhood, empty ones included."""
        return self.clusters.shape[2] * self.cluster_size

    def members(self, of: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The neighbourhoods token by token.

        Args:
            of: (B, Q) integers: only those of these tokens, instead of all N

        Returns:
            (B, Q, m) int64 tokens of the clusters, one cluster after the other, 0 in empty slots;
            (B, Q, m) bool, False in empty slots, or None if there are no empty slots
        """
        clusters = self.clusters if of is None else gather_tokens(self.clusters, of)
        slots = torch.arange(self.cluster_size, device=clusters.device)
        members = (clusters.long()[..., None] * self.cluster_size + slots).flatten(2)
        if self.num_tokens % self.cluster_size == 0:
            return members, None
        valid = members < self.num_tokens
        return torch.where(valid, members, 0), valid

    def users(self) -> tuple[Tensor, Tensor]:
        """The inverse lists: which tokens see a cluster. Built when first asked for.

        Returns:
            (B, N * R) int32 tokens in ascending order, of one cluster after the other;
            (B, num_clusters + 1) int64 where the tokens of each cluster begin and end
        """
        if self._users is None:
            self._users = self._invert()
        return self._users

    def _invert(self) -> tuple[Tensor, Tensor]:
        clusters_per_token = self.clusters.shape[2]
        clusters, order = self.clusters.flatten(1).sort(dim=1, stable=True)
        users = order.div(max(clusters_per_token, 1), rounding_mode="floor").to(torch.int32)
        borders = torch.arange(
            self.num_clusters + 1, dtype=torch.int32, device=clusters.device
        ).expand(len(clusters), -1)
        return users, torch.searchsorted(clusters, borders.contiguous())
