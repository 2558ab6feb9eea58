"""Several faults of a configuration in one error."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from segcore.errors import ConfigError

MAX_SHOWN = 3
MAX_NAME_LENGTH = 100


def raise_faults(faults: Sequence[str]) -> None:
    """Raise a ConfigError with the first three faults, a line each, if there are any."""
    if not faults:
        return
    hidden = len(faults) - MAX_SHOWN
    message = "\n".join(faults[:MAX_SHOWN])
    raise ConfigError(message + (f" (and {hidden} more)" if hidden > 0 else ""))


def did_you_mean(name: str, names: Iterable[str], most: int = 1) -> str:
    """Return "; did you mean X?" for those of ``names`` that are close, or ""."""
    if len(name) > MAX_NAME_LENGTH:
        return ""
    by_capitals = {candidate.upper(): candidate for candidate in names}
    close = get_close_matches(name.upper(), by_capitals, n=most, cutoff=0.8)
    found = " or ".join(by_capitals[capitals] for capitals in close)
    return f"; did you mean {found}?" if found else ""
