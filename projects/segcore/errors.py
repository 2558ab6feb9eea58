"""Errors that a user can mend. Commands print their message and nothing else (``program.py``)."""

import pickle
from collections.abc import Iterator


class UserError(Exception):
    """A file, an argument or a setting that cannot be used.

    The message stands alone: at most three lines that name the argument or file, what was expected
    and what came. Text that comes from a file is passed through
    :func:`segcore.text.printable`.

    Attributes:
        exit_code: exit code of a command with this error: 2 for usage and configuration, else 1.
    """

    exit_code = 1


class ConfigError(UserError, ValueError):
    """A configuration file, a config value or a command-line argument that is wrong."""

    exit_code = 2


class RequirementError(UserError, ImportError):
    """A package that is needed here and not installed; names the command that installs it."""


class DataError(UserError, ValueError):
    """Images or annotations that cannot be used."""


class ImageError(DataError):
    """An image file that is missing, broken, of a refused format or too large."""


class CheckpointError(UserError, ValueError):
    """A checkpoint that is missing, damaged, or does not fit the model."""


class UnsafeCheckpointError(CheckpointError, pickle.UnpicklingError):
    """A checkpoint that asks for more than tensors, arrays and plain containers."""


class OutputError(UserError, OSError):
    """A file or folder that cannot be written, or is in use by another run."""


class TrainingDivergedError(UserError, FloatingPointError):
    """A loss or gradient that is not finite; the message has a line for each process concerned."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error``, the exception that it was raised from or while handling, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
