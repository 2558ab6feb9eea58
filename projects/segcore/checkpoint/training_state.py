"""State of a training run, loaded if it is of the same kind as that of this run."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from segcore.errors import CheckpointError, UserError
from segcore.text import printable


def load_training_state(item: Any, key: str, checkpoint: Mapping[str, Any], source: str) -> None:
    """Load ``checkpoint[key]`` into an object with ``state_dict`` and ``load_state_dict``.

    Raises:
        CheckpointError: there is no such state, or it belongs to another kind of run.
    """
    hint = (
        f"the run cannot be resumed. To start from the weights alone: MODEL.WEIGHTS "
        f"{printable(source)}, without --resume, into another OUTPUT_DIR"
    )
    if key not in checkpoint:
        raise CheckpointError(f"{printable(source)} has no state of the training ({key}): {hint}")
    state = checkpoint[key]
    reason = kind_difference(state, item.state_dict(), key)
    if reason is None:
        try:
            item.load_state_dict(state)
            return
        except UserError:
            raise
        except Exception as error:  # each kind of state fails in its own way
            reason = f"{type(error).__name__} {printable(error, 120)}"
            raise _other_run(source, reason, hint) from error
    raise _other_run(source, reason, hint)


def kind_difference(saved: Any, fresh: Any, name: str) -> str | None:
    """Describe the first value of a saved state that is of another kind than in a fresh run.

    None stands for a setting that is not used, and is of any kind.
    """
    if saved is None or fresh is None:
        return None
    kinds = next((k for k in _KINDS if isinstance(fresh, k)), object)
    if not isinstance(saved, kinds) or isinstance(saved, bool) != isinstance(fresh, bool):
        return f"{name} is a {type(saved).__name__}, expected a {type(fresh).__name__}"
    if isinstance(fresh, Mapping):
        pairs = [(key, saved[key], value) for key, value in fresh.items() if key in saved]
    elif isinstance(fresh, list | tuple):
        pairs = [(i, *pair) for i, pair in enumerate(zip(saved, fresh, strict=False))]
    else:
        return None
    differences = (kind_difference(old, new, f"{name}.{key}") for key, old, new in pairs)
    return next((difference for difference in differences if difference), None)


_KINDS: Sequence[Any] = (Mapping, list | tuple, str, int | float, Tensor)


def _other_run(source: str, reason: str, hint: str) -> CheckpointError:
    return CheckpointError(
        f"{printable(source)} holds the training of another model or data: {reason}\n{hint}"
    )
