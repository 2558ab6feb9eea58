"""Several photos at a time, of which some fail."""

from pathlib import Path

import numpy as np
import pytest

from segcore.demo.batched import predict_batches
from segcore.errors import ImageError

PATHS = [Path(name) for name in "abcde"]
BROKEN, TOO_LARGE = PATHS[1], 3


def read(path: Path) -> np.ndarray:
    if path == BROKEN:
        raise ImageError("b: is broken")
    return np.full((2, 2, 3), PATHS.index(path), np.uint8)


@pytest.mark.parametrize(("size", "largest"), [(1, 1), (2, 2), (3, 2), (9, 4)])
def test_errors_are_those_of_one_photo(size, largest):
    sizes = []

    def predict(photos):
        sizes.append(len(photos))
        numbers = [int(photo[0, 0, 0]) for photo in photos]
        if TOO_LARGE in numbers:
            raise MemoryError(f"of {len(photos)}")
        return [{"number": number} for number in numbers]

    outcomes = list(predict_batches(PATHS, read, predict, size))
    assert len(outcomes) == len(PATHS) and max(sizes) == largest
    for number, outcome in enumerate(outcomes):
        if number in (1, TOO_LARGE):
            assert str(outcome) == ("b: is broken" if number == 1 else "of 1")
        else:
            photo, result = outcome
            assert photo[0, 0, 0] == result["number"] == number


def test_an_interrupt_is_no_outcome():
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(predict_batches(PATHS, read, interrupt, 2))
    assert list(predict_batches([], read, interrupt, 2)) == []
