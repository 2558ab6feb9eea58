"""Point sampling of masks, and importance sampling of the points.

Points are (x, y) in [0, 1]: fractions of width and height, so that the same points serve a mask and
its prediction at a quarter of the size. PointRend (Kirillov et al., 2020), section 3.1.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DrawPoints = Callable[..., Tensor]
"""``draw(*size, dtype=, device=)`` -> points (*size, 2) in [0, 1]."""


def uniform_points(*size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draw uniform random points (*size, 2) from torch's global generator."""
    return torch.rand(*size, 2, dtype=dtype, device=device)


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Sample ``maps`` (N, C, H, W) bilinearly at ``points`` (N or 1, P, 2): (N, C, P).

    A pixel's value stands at its center, ((x + 0.5) / W, (y + 0.5) / H); outside is zero. Both are
    floating point, of one type; differentiable in both.
    """
    if maps.dim() != 4 or points.dim() != 3 or points.shape[-1] != 2:
        raise ValueError(
            "point_sample: expected maps (N, C, H, W) and points (N or 1, P, 2),"
            f" got {tuple(maps.shape)} and {tuple(points.shape)}"
        )
    grid = (2 * points - 1).unsqueeze(2).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False).squeeze(3)


class MaskSampler:
    """Sampler of a set of masks like :func:`point_sample`, without floating-point copies of them.

    Args:
        masks: (N, H, W), boolean or of any number type.
    """

    def __init__(self, masks: Tensor) -> None:
        if masks.dim() != 3:
            raise ValueError(f"masks: expected (N, H, W), got {tuple(masks.shape)}")
        self.height, self.width = masks.shape[-2:]
        if masks.dtype == torch.bool:
            masks = masks.view(torch.uint8)
        # One pixel of zeros around each mask: no corner of a point in [0, 1] lies outside.
        self._values = F.pad(masks, (1, 1, 1, 1)).flatten()

    def __call__(self, rows: Tensor, points: Tensor) -> Tensor:
        """Values (..., P) of the masks ``rows`` (...), int64, at ``points`` (..., P, 2) in [0, 1].

        The leading dimensions are broadcast against each other: points may be shared by masks.
        """
        x, y = (points * points.new_tensor([self.width, self.height]) + 0.5).unbind(-1)
        left, top = x.floor(), y.floor()
        stride = self.width + 2
        corner = top.long() * stride + left.long() + rows.unsqueeze(-1) * stride * (self.height + 2)
        top_left, top_right, bottom_left, bottom_right = (
            # A flat index_select is several times faster on a CPU than take, gather or indexing.
            self._values.index_select(0, (corner + offset).flatten()).view_as(corner).to(x.dtype)
            for offset in (0, 1, stride, stride + 1)
        )
        across, down = x - left, y - top
        upper = torch.lerp(top_left, top_right, across.expand_as(corner))
        lower = torch.lerp(bottom_left, bottom_right, across.expand_as(corner))
        return torch.lerp(upper, lower, down.expand_as(corner))


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    num_points: int,
    *,
    oversample_ratio: float = 3.0,
    importance_sample_ratio: float = 0.75,
    draw_points: DrawPoints = uniform_points,
) -> Tensor:
    """Draw points (N, num_points, 2), most of them where mask ``logits`` (N, H, W) are uncertain.

    Of ``oversample_ratio * num_points`` candidates the ``importance_sample_ratio * num_points``
    with the smallest absolute logit are taken; the rest are drawn afresh. PointRend, section 3.1.
    """
    if oversample_ratio < 1 or not 0 <= importance_sample_ratio <= 1:
        raise ValueError(
            "expected oversample_ratio >= 1 and importance_sample_ratio in [0, 1],"
            f" got {oversample_ratio} and {importance_sample_ratio}"
        )
    options = {"dtype": logits.dtype, "device": logits.device}
    num_important = int(importance_sample_ratio * num_points)
    candidates = draw_points(len(logits), int(oversample_ratio * num_points), **options)
    certainty = point_sample(logits.unsqueeze(1), candidates).squeeze(1).abs()
    indices = _smallest(certainty, num_important)
    important = candidates.gather(1, indices.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat(
        [important, draw_points(len(logits), num_points - num_important, **options)], dim=1
    )


def _smallest(values: Tensor, count: int) -> Tensor:
    """Return the indices (N, count) of the smallest values (N, P), in any order."""
    if values.device.type == "cpu" and 0 < count < values.shape[1]:
        # Takes a quarter of the time of torch's, which sorts pairs.
        return torch.from_numpy(np.argpartition(values.numpy(), count - 1)[:, :count])
    return values.topk(count, largest=False, sorted=False).indices
