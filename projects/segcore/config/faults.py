"""Several faults of a configuration in one error."""

from collections.abc import Sequence

from segcore.errors import ConfigError

MAX_SHOWN = 3


def raise_faults(faults: Sequence[str]) -> None:
    """Raise a ConfigError with the first three faults, a line each, if there are any."""
    if not faults:
        return
    hidden = len(faults) - MAX_SHOWN
    message = "\n".join(faults[:MAX_SHOWN])
    raise ConfigError(message + (f" (and {hidden} more)" if hidden > 0 else ""))
