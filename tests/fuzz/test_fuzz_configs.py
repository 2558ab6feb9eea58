"""Damaged and hostile configurations: a config, or one clear error; nothing runs."""

import re
from functools import partial
from pathlib import Path
from random import Random

import pytest

from fuzz.fuzzing import HOSTILE_VALUES, mutated_bytes, run_cases, tree
from segcore.config import get_cfg, load_config, validate_config
from segcore.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.glob("_base_/*.yaml")) + sorted(CONFIGS.glob("quickstart/*.yaml"))
PAYLOADS = [
    "!!python/object/apply:os.system ['touch executed']",
    "!!python/object/apply:eval [\"open('executed', 'w')\"]",
    "!!python/object/apply:eval ['[int(x) for x in range(10**10)]']",
    "!!python/object/new:os.mkdir [executed]",
    "!!python/module:os",
    "!!python/name:os.system",
    "!!python/tuple [1, 2]",
    "&a [*a]",
    "*missing",
    "{<<: {a: 1}}",
    "0x" + "f" * 500,
    "1e999",
    "2001-01-01",
    "!!binary aGk=",
    "!!set {a, b}",
]


def use(folder, content: bytes) -> None:
    path = folder / "crafted.yaml"
    path.write_bytes(content)
    validate_config(load_config(str(path)))


def text_of(path: Path) -> str:
    """Return the file's text with absolute paths of its bases."""
    return re.sub(r"[\w./]+\.yaml", lambda m: str((path.parent / m[0]).resolve()), path.read_text())


def with_payload(random: Random) -> bytes:
    lines = text_of(random.choice(FILES)).splitlines()
    for _ in range(random.randint(1, 3)):
        number = random.randrange(len(lines))
        key, colon, _ = lines[number].partition(":")
        value = random.choice([*PAYLOADS, *map(str, HOSTILE_VALUES)])
        lines[number] = f"{key}{colon} {value}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("make", [with_payload, None], ids=["payloads", "bytes"])
def test_damaged_files(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)

    def damaged(random: Random) -> bytes:
        return mutated_bytes(text_of(random.choice(FILES)).encode(), random)

    run_cases(f"config {make}", make or damaged, partial(use, tmp_path), ConfigError)
    assert tree(tmp_path) == {"crafted.yaml"}


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = [key for key, _ in _leaves(get_cfg(), "")]

    def make(random: Random) -> list[str]:
        values = [*PAYLOADS, *map(repr, HOSTILE_VALUES), "(" * 10_000, "[" * 50 + "]" * 50, "1,2,3"]
        return [part for _ in range(2) for part in (random.choice(keys), random.choice(values))]

    def use_options(options: list[str]) -> None:
        validate_config(load_config("", options))

    run_cases("options", make, use_options, ConfigError)
    assert not tree(tmp_path)


def _leaves(node, prefix: str):
    for key, value in node.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
