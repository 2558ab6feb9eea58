"""One-to-one assignment of predictions to targets (DETR, Carion et al., 2020, section 3.1)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy
import torch
from torch import Tensor


class Assignment(NamedTuple):
    """Matched pairs of L predictions, M each; tensors (L, M), int64, ordered by image."""

    image: Tensor
    query: Tensor
    target: Tensor
    """Index into the targets of all images, concatenated."""


def assign(costs: Sequence[Sequence[Tensor]]) -> Assignment:
    """Solve the assignment of every prediction and image, with one copy to the host.

    Args:
        costs: ``costs[l][b]`` (Q_b, n_b), finite, of prediction l and image b: min(Q_b, n_b)
            pairs, in the order of the queries.

    Raises:
        NonFiniteCostError: for the first prediction and image with a cost that is NaN or infinite.
    """
    device = costs[0][0].device
    flat = torch.cat([cost.flatten() for images in costs for cost in images]).cpu().numpy()
    ends = np.cumsum([cost.numel() for images in costs for cost in images])
    pieces = iter(np.split(flat, ends[:-1]))
    return Assignment(
        *torch.from_numpy(
            np.stack(
                [_assign_images(index, images, pieces) for index, images in enumerate(costs)], 1
            )
        ).to(device, non_blocking=True)
    )


def _assign_images(prediction: int, costs: Sequence[Tensor], pieces) -> np.ndarray:
    """Return image, query and target of each pair of one prediction: (3, M)."""
    pairs, num_targets = [], 0
    for image, cost in enumerate(costs):
        matrix = next(pieces).reshape(cost.shape)
        if not np.isfinite(matrix).all():
            raise NonFiniteCostError(prediction, image)
        query, target = scipy.optimize.linear_sum_assignment(matrix)
        pairs.append(np.stack([np.full_like(query, image), query, target + num_targets]))
        num_targets += matrix.shape[1]
    return np.concatenate(pairs, axis=1)


class NonFiniteCostError(FloatingPointError):
    """A matching cost of ``prediction`` and ``image`` is NaN or infinite."""

    def __init__(self, prediction: int, image: int) -> None:
        super().__init__(f"non-finite matching cost: prediction {prediction}, image {image}")
        self.prediction = prediction
        self.image = image


def assign_by_parts(
    costs: Sequence[Sequence[Mapping[str, Tensor]]],
    *,
    names: Sequence[str],
    labels: Sequence[Tensor] = (),
    num_classes: int = 0,
) -> Assignment:
    """Solve :func:`assign` by the sum of named costs; explain costs that are not finite.

    Labels are checked only after a non-finite cost, which avoids a wait for the device: the caller
    sets the costs of labels outside [0, ``num_classes``) to NaN.

    Args:
        costs: {name: (Q_b, n_b)} of each prediction and image.
        names: names of the predictions, for messages.
        labels: (n_b,) int64 of each image's targets; none: no check.

    Raises:
        ValueError: a label is outside [0, ``num_classes``).
        FloatingPointError: a cost is not finite; names the cost, the prediction and the image.
    """
    try:
        return assign([[sum(parts.values()) for parts in images] for images in costs])
    except NonFiniteCostError as error:
        if labels:
            _check_labels(labels[error.image], num_classes, error.image)
        raise _explained(
            error, costs[error.prediction][error.image], names[error.prediction]
        ) from None


def _check_labels(labels: Tensor, num_classes: int, image: int) -> None:
    unknown = sorted({label for label in labels.tolist() if not 0 <= label < num_classes})
    if unknown:
        raise ValueError(
            f"labels of image {image} of the batch: expected 0 to {num_classes - 1}"
            f" ({num_classes} classes), got {', '.join(map(str, unknown))}"
        )


def _explained(
    error: NonFiniteCostError, parts: Mapping[str, Tensor], prediction: str
) -> FloatingPointError:
    bad = {name: int((~part.isfinite()).sum()) for name, part in parts.items()}
    bad = ", ".join(
        f"{name} cost {count} of {parts[name].numel()}" for name, count in bad.items() if count
    )
    return FloatingPointError(
        f"non-finite matching costs in {prediction}, image {error.image} of the batch: {bad}. The"
        " prediction holds NaN, infinite or huge values, most often because training diverged:"
        " lower the learning rate, check gradient clipping, or use bfloat16 instead of float16."
    )
