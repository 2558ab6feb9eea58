"""Prediction of several photos at a time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Outcome = tuple[np.ndarray, dict[str, Any]] | Exception


def predict_batches(
    paths: Sequence[Path],
    read: Callable[[Path], np.ndarray],
    predict: Callable[[list[np.ndarray]], list[dict[str, Any]]],
    size: int,
) -> Iterator[Outcome]:
    """Yield each photo and its result, or the error of reading or predicting it, in this order.

    Photos of a batch that fails as a whole are predicted one by one.

    Args:
        read: returns the photo (H, W, 3) of a file.
        predict: returns the results of a batch.
        size: number of photos of a batch.
    """
    for start in range(0, len(paths), size):
        photos = [_attempt(read, path) for path in paths[start : start + size]]
        batch = [photo for photo in photos if not isinstance(photo, Exception)]
        results = _attempt(predict, batch) if batch else []
        if isinstance(results, Exception):
            alone = [results] if len(batch) == 1 else [_attempt(predict, [p]) for p in batch]
            results = [r if isinstance(r, Exception) else r[0] for r in alone]
        remaining = iter(results)
        for photo in photos:
            outcome = photo if isinstance(photo, Exception) else next(remaining)
            yield outcome if isinstance(outcome, Exception) else (photo, outcome)


def _attempt(function: Callable, argument: Any) -> Any:
    """Return what the function returns, or the error that it raises."""
    try:
        return function(argument)
    except Exception as error:
        return error
