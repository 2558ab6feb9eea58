"""Named objects that systems add to, each from a package of its own."""

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from segcore.errors import ConfigError
from segcore.text import did_you_mean, short_repr

T = TypeVar("T")
MAX_NAMES_SHOWN = 12
PROJECTS_ENTRY_POINT = "segcore.projects"


def project_entry_points() -> list[EntryPoint]:
    """Return the entry points of the installed projects, by name; importing none of them."""
    return sorted(entry_points(group=PROJECTS_ENTRY_POINT), key=lambda entry: entry.name)


class NamedRegistry(Mapping, Generic[T]):
    """A mapping from names to objects, in the order of registration.

    Detectron2's ``Registry`` takes the names from the objects; here they are given, as config
    values are.

    Args:
        key: config key or option in which users write the names; for messages.
    """

    def __init__(self, key: str):
        self.key = key
        self._objects: dict[str, T] = {}

    def register(self, name: str, item: T) -> None:
        """Add an object.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._objects:
            raise ValueError(f"{self.key}: {name!r} is registered already")
        self._objects[name] = item

    def find(self, name: str) -> T:
        """Return the object of a name that a user wrote.

        Raises:
            ConfigError: there is none; names the closest ones.
        """
        if name in self._objects:
            return self._objects[name]
        names = sorted(self._objects)
        expected = (
            f"one of {', '.join(names)}"
            if len(names) <= MAX_NAMES_SHOWN
            else "a name that is registered"
        )
        raise ConfigError(
            f"{self.key}: expected {expected}, got {short_repr(name)}"
            + did_you_mean(str(name), names, most=2)
        )

    def __getitem__(self, name: str) -> T:
        return self._objects[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)
