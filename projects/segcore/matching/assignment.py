"""One-to-one assignment of predictions to targets (DETR, Carion et al., 2020, section 3.1)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Assignment(NamedTuple):
    """The matched pairs of L prediction levels, M a level; each (L, M), int64, ordered by image."""

    image: Tensor
    query: Tensor
    target: Tensor
    """Index into the targets of all images, concatenated."""


def assign(costs: Sequence[Sequence[Tensor]]) -> Assignment:
    """Solve the assignment of every level and image; the costs are brought to the host in one copy.

    Args:
        costs: of level l and image b, ``costs[l][b]`` is (Q_b, n_b): min(Q_b, n_b) pairs, in the
            order of the queries. Finite.

    Raises:
        NonFiniteCostError: at the first level and image with a cost that is NaN or infinite.
    """
    device = costs[0][0].device
    flat = torch.cat([cost.flatten() for level in costs for cost in level]).cpu().numpy()
    ends = np.cumsum([cost.numel() for level in costs for cost in level])
    pieces = iter(np.split(flat, ends[:-1]))
    return Assignment(
        *torch.from_numpy(
            np.stack([_assign_level(index, level, pieces) for index, level in enumerate(costs)], 1)
        ).to(device, non_blocking=True)
    )


def _assign_level(index: int, level: Sequence[Tensor], pieces) -> np.ndarray:
    """(3, M): image, query and target of each pair of one level."""
    pairs, num_targets = [], 0
    for image, cost in enumerate(level):
        matrix = next(pieces).reshape(cost.shape)
        if not np.isfinite(matrix).all():
            raise NonFiniteCostError(index, image)
        query, target = linear_sum_assignment(matrix)
        pairs.append(np.stack([np.full_like(query, image), query, target + num_targets]))
        num_targets += matrix.shape[1]
    return np.concatenate(pairs, axis=1)


class NonFiniteCostError(FloatingPointError):
    """A matching cost of ``level`` and ``image`` is NaN or infinite."""

    def __init__(self, level: int, image: int) -> None:
        super().__init__(f"non-finite matching cost: prediction level {level}, image {image}")
        self.level = level
        self.image = image


def assign_by_parts(
    costs: Sequence[Sequence[Mapping[str, Tensor]]],
    *,
    levels: Sequence[str],
    labels: Sequence[Tensor] = (),
    num_classes: int = 0,
) -> Assignment:
    """:func:`assign` by the sum of named costs, with an explanation where one is not finite.

    Args:
        costs: of each level and image {name: (Q_b, n_b)}.
        levels: what the levels are called.
        labels: of each image the targets' (n_b,) int64, if they are to be checked. One outside
            [0, ``num_classes``) is looked for only where a cost is not finite: have it cost NaN,
            and the device need not be waited for.

    Raises:
        ValueError: a label lies outside.
        FloatingPointError: a cost is not finite; says which, of which level and image.
    """
    try:
        return assign([[sum(parts.values()) for parts in level] for level in costs])
    except NonFiniteCostError as error:
        if labels:
            _check_labels(labels[error.image], num_classes, error.image)
        raise _explained(error, costs[error.level][error.image], levels[error.level]) from None


def _check_labels(labels: Tensor, num_classes: int, image: int) -> None:
    unknown = sorted({label for label in labels.tolist() if not 0 <= label < num_classes})
    if unknown:
        raise ValueError(
            f"labels of image {image} of the batch: expected 0 to {num_classes - 1}"
            f" ({num_classes} classes), got {', '.join(map(str, unknown))}"
        )


def _explained(
    error: NonFiniteCostError, parts: Mapping[str, Tensor], level: str
) -> FloatingPointError:
    bad = {name: int((~part.isfinite()).sum()) for name, part in parts.items()}
    bad = ", ".join(
        f"{name} cost {count} of {parts[name].numel()}" for name, count in bad.items() if count
    )
    return FloatingPointError(
        f"non-finite matching costs in {level}, image {error.image} of the batch: {bad}. The"
        " prediction holds NaN, infinite or huge values, most often because training diverged:"
        " lower the learning rate, check gradient clipping, or use bfloat16 instead of float16."
    )
