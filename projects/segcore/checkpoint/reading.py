"""Errors of checkpoint files that cannot be used, in one form for every reader."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segcore.errors import CheckpointError, UnsafeCheckpointError
from segcore.text import printable

MAX_REASON = 160


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn any exception inside into an error that names the file.

    Raises:
        UnsafeCheckpointError: the file asks for more than tensors, arrays and plain containers.
        CheckpointError: it cannot be read, is damaged, or is no checkpoint.
    """
    name = printable(path)
    try:
        yield
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"{name} is refused: {error}. A checkpoint may hold tensors, NumPy arrays and plain "
            "containers, nothing else, because a pickle can execute any code. "
            "If you trust it, save the weights alone with the program that has written it: "
            "torch.save({'state_dict': model.state_dict()}, 'weights.pth')"
        ) from None
    except CheckpointError:
        raise
    except OSError as error:
        reason = printable(error.strerror or error, MAX_REASON)
        raise CheckpointError(f"{name}: cannot be read: {reason}") from error
    except MemoryError as error:
        raise CheckpointError(f"{name}: asks for more memory than there is") from error
    except Exception as error:  # a damaged file fails in any way its bytes suggest
        reason = printable(error, MAX_REASON) or type(error).__name__
        raise CheckpointError(f"{name} is damaged or no checkpoint: {reason}") from error
