"""The golden cases: where they lie, how their inputs and weights are made, how arrays are compared.

``GOLDEN_CASES`` names the folder with the sub-folders ``mask2former/``, ... (default
``../shared/golden``, relative to the repository). ``fill.py`` and ``keys_*.json`` are always read
from ``../shared/golden``.
"""

import ast
import importlib.util
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

GOLDEN_ROOT = Path(__file__).resolve().parents[3] / "shared" / "golden"
# The folders of cases that tests read: a new system adds its own here, and nowhere else.
SYSTEMS = (
    "mask2former",
    "mask2former_more",
    "mask2former_video",
    "panoptic_segformer",
    "autofocusformer",
    "eomt",
)
# Files of a system's folder that describe no case.
NOT_CASES = ("keys_", "ytvis_categories")


def cases_root() -> Path:
    """The folder that holds the cases of every system."""
    return Path(os.environ.get("GOLDEN_CASES") or GOLDEN_ROOT).resolve()


@dataclass
class Case:
    """One golden case: its description (JSON) and its arrays (npz, read when first used)."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def info(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @property
    def config(self) -> dict[str, Any]:
        return self.info["config"]

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as file:
            return dict(file)

    @cached_property
    def tolerance(self) -> float:
        """The float64 tolerance where the case states a single one, as a number or in words."""
        return first_number(self.info["tolerance"])

    @property
    def weight_overrides(self) -> list[tuple[str, str, float | None]]:
        """(pattern, operation, number) in the order of application."""
        overrides = self.info.get("weight_overrides", [])
        return overrides["list"] if isinstance(overrides, dict) else overrides

    def sampled(self, name: str, full: Tensor) -> Tensor:
        """``full`` with the sub-sampling that the array ``name`` was stored with."""
        if "slice" in self.info["arrays"][name]:
            return self._sliced(name, full)
        what = self.info["arrays"][name]["what"]
        shape = re.search(r"(?:over|of) (\[[\d, ]+\])", what)
        if shape is not None and list(full.shape) != ast.literal_eval(shape[1]):
            raise AssertionError(f"{name}: shape {list(full.shape)}, golden {shape[1]}")
        stride = re.search(r"stride (\([\d, ]+\))", what)
        if stride is None:
            return full
        return full[tuple(slice(None, None, step) for step in ast.literal_eval(stride[1]))]

    def _sliced(self, name: str, full: Tensor) -> Tensor:
        info = self.info["arrays"][name]
        if list(full.shape) != info["full_shape"]:
            raise AssertionError(f"{name}: shape {list(full.shape)}, golden {info['full_shape']}")
        return full[tuple(map(parse_slice, ast.literal_eval(info["slice"])))]

    def unpacked(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """The boolean array of ``shape`` that was stored by numpy.packbits."""
        bits = np.unpackbits(self.arrays[name], count=int(np.prod(shape)))
        return bits.reshape(shape).astype(bool)


def parse_slice(text: str) -> slice:
    """Return the slice of ``"start:stop:step"``, where any of the three may be left out.

    Raises:
        ValueError: the text has another form.
    """
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise ValueError(f"not a slice: {text!r}, expected start:stop:step")
    return slice(*(int(part) if part else None for part in parts))


def first_number(tolerance: float | str) -> float:
    """A tolerance as a number; of words, the first number with an exponent (that of float64)."""
    if isinstance(tolerance, int | float):
        return float(tolerance)
    number = re.search(r"\d+(?:\.\d+)?e-?\d+", tolerance)
    if number is None:
        raise ValueError(f"no tolerance in {tolerance!r}")
    return float(number[0])


def find_cases(system: str, prefix: str) -> list[Case]:
    """The cases of ``system`` whose name starts with ``prefix``, sorted by name."""
    if system not in SYSTEMS:
        raise ValueError(f"system: expected one of {', '.join(SYSTEMS)}, got {system!r}")
    paths = sorted((cases_root() / system).glob(f"{prefix}*.json"))
    return [Case(path) for path in paths if not path.name.startswith(NOT_CASES)]


def parametrize_cases(system: str, *prefixes: str) -> pytest.MarkDecorator:
    """Run a test once a case, as argument ``case``; without any, skip it and say why."""
    if not GOLDEN_ROOT.is_dir():
        return _skipped(f"{GOLDEN_ROOT} is absent")
    cases = [case for prefix in prefixes for case in find_cases(system, prefix)]
    if not cases:
        return _skipped(f"no case {system}/{'|'.join(prefixes)}* in {cases_root()}")
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def parametrize_keys(system: str) -> pytest.MarkDecorator:
    """Run a test once for each ``keys_<config>.json`` of ``system``, as argument ``keys``."""
    if not GOLDEN_ROOT.is_dir():
        return _skipped(f"{GOLDEN_ROOT} is absent", argument="keys")
    paths = sorted((GOLDEN_ROOT / system).glob("keys_*.json"))
    return pytest.mark.parametrize("keys", [Case(path) for path in paths], ids=lambda k: k.name)


def _skipped(reason: str, argument: str = "case") -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        argument, [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    )


def z(name: str, shape: Iterable[int]) -> np.ndarray:
    """Standard normal numbers that are a function of ``name``, float64."""
    shape = tuple(shape)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode("utf-8"))))
    return generator.standard_normal(int(np.prod(shape, dtype=np.int64))).reshape(shape)


def generated(expression: str) -> Tensor:
    """The float64 tensor of a description ``z('name', [shape])`` or ``2*z('name', (shape))``."""
    match = re.fullmatch(r"(?:([\d.]+)\s*\*\s*)?z(\(.+\))", expression.strip())
    if match is None:
        raise ValueError(f"not an input description: {expression!r}")
    name, shape = ast.literal_eval(match[2])
    return torch.from_numpy(z(name, shape)) * float(match[1] or 1)


def picture(name: str, size: tuple[int, int]) -> Tensor:
    """The uint8 picture (3, H, W) of a case's ``image_generator``: noise on blocks of 8 x 8."""
    blocks = z(f"{name}.blocks", (3, *(math.ceil(side / 8) for side in size)))
    blocks = blocks.repeat(8, axis=1).repeat(8, axis=2)[:, : size[0], : size[1]]
    noise = 20 * z(f"{name}.noise", (3, *size))
    pixels = np.floor(128 + 60 * blocks + noise).clip(0, 255)
    return torch.from_numpy(pixels.astype(np.uint8))


@lru_cache(maxsize=1)
def _fill_value() -> Callable[[str, tuple[int, ...]], np.ndarray]:
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN_ROOT / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill_value


def fill_value(name: str, shape: Iterable[int]) -> Tensor:
    """The golden value of the parameter or buffer with this official name, float64."""
    return torch.from_numpy(_fill_value()(name, tuple(shape)))


@torch.no_grad()
def fill_model(
    model: nn.Module,
    *,
    overrides: Iterable[tuple[str, str, float | None]] = (),
    rules: Iterable[Mapping[str, Any]] = (),
    prefix: str = "",
    official_names: Mapping[str, str] | None = None,
    left_as_built: Iterable[str] = ("criterion.empty_weight",),
) -> None:
    """Give every floating-point entry of ``model``'s state dict its golden value, in place.

    Args:
        overrides: (pattern, "multiply" | "subtract_row_mean", number), applied in order to every
            entry whose official name contains the pattern.
        rules: ``weight_override_rules`` of a case: what a name ends in and contains, where given,
            and "op": "abs", "multiply_by_sqrt_of_second_dimension", or "constant" with "values" by
            name.
        prefix: put before each name, where ``model`` is a part of the official one.
        official_names: our name -> official name, where they differ.
        left_as_built: official names that keep their value.
    """
    overrides, rules, left_as_built = list(overrides), list(rules), set(left_as_built)
    for name, entry in model.state_dict().items():
        official = (official_names or {}).get(name, prefix + name)
        if not entry.is_floating_point() or official in left_as_built:
            continue
        value = fill_value(official, entry.shape)
        for pattern, operation, number in overrides:
            if pattern in official:
                value = _overridden(value, operation, number)
        for rule in rules:
            value = _ruled(value, official, rule)
        entry.copy_(value)


def _overridden(value: Tensor, operation: str, number: float | None) -> Tensor:
    if operation == "multiply":
        return value * number
    if operation == "subtract_row_mean":
        return value - value.mean(dim=1, keepdim=True)
    raise ValueError(f"unknown weight override {operation!r}")


def _ruled(value: Tensor, name: str, rule: Mapping[str, Any]) -> Tensor:
    fits = name.endswith(tuple(rule.get("name_endswith", [""]))) and all(
        part in name for part in rule.get("name_contains", [])
    )
    if not fits:
        return value
    match rule["op"]:
        case "abs":
            return value.abs()
        case "multiply_by_sqrt_of_second_dimension":
            return value * value.shape[1] ** 0.5
        case "constant":
            return torch.full_like(value, rule["values"][name]) if name in rule["values"] else value
    raise ValueError(f"unknown weight override rule {rule['op']!r}")


@dataclass
class Comparison:
    """Compares all arrays of a case before :meth:`check` fails for those that differ."""

    rows: list[tuple[str, float, float]] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)

    def close(
        self,
        name: str,
        actual,
        expected,
        tolerance: float,
        *,
        scaled: bool = False,
        relative: float = 0.0,
    ) -> None:
        """|actual - expected| <= tolerance, times max(1, max|expected|) if ``scaled``; each entry
        may differ by ``relative`` times its golden value more."""
        actual, expected = _float64(actual), _float64(expected)
        if actual.shape != expected.shape:
            raise AssertionError(f"{name}: shape {actual.shape}, golden {expected.shape}")
        if expected.size == 0:
            return self._add(name, 0.0, tolerance)
        scale = max(1.0, float(np.abs(expected).max())) if scaled else 1.0
        error = float((np.abs(actual - expected) - relative * np.abs(expected)).max()) / scale
        error = max(error, 0.0) if error == error else error
        self._add(name, error if np.isfinite(error) else float("inf"), tolerance)

    def equal(self, name: str, actual, expected, *, allowed: int = 0) -> None:
        """At most ``allowed`` entries of two integer or boolean arrays differ."""
        actual, expected = _float64(actual), _float64(expected)
        if actual.shape != expected.shape:
            raise AssertionError(f"{name}: shape {actual.shape}, golden {expected.shape}")
        self._add(name, float((actual != expected).sum()), float(allowed))

    @property
    def names(self) -> set[str]:
        """Names of the arrays that were compared."""
        return {name for name, _, _ in self.rows}

    def require_results(
        self, arrays: Iterable[str], *, results: str, inputs: str, compared: Iterable[str] = ()
    ) -> None:
        """Fail if a result of a case was not compared; list other such arrays, which are inner
        tensors that no module of ours exposes, in ``not_compared``.

        Args:
            arrays: names of all arrays of the case.
            results: regular expression of the names of results.
            inputs: regular expression of the names of inputs.
            compared: names that were compared under other names.
        """
        absent = sorted(set(arrays) - self.names - set(compared))
        absent = [name for name in absent if not re.fullmatch(inputs, name)]
        missing = [name for name in absent if re.fullmatch(results, name)]
        assert not missing, f"results that were not compared: {', '.join(missing)}"
        self.not_compared += absent

    def _add(self, name: str, error: float, tolerance: float) -> None:
        self.rows.append((name, error, tolerance))

    @property
    def worst(self) -> tuple[str, float, float]:
        """(array, error, tolerance) of the array nearest to, or farthest beyond, its limit."""
        return max(self.rows, key=lambda row: row[1] / row[2] if row[2] else row[1] * 1e30)

    def check(self) -> None:
        assert self.rows, "nothing was compared"
        failures = [row for row in self.rows if not row[1] <= row[2]]
        table = "\n".join(f"  {n}: error {e:.3g}, tolerance {t:.3g}" for n, e, t in failures)
        assert not failures, f"{len(failures)} of {len(self.rows)} arrays differ:\n{table}"


def _float64(array) -> np.ndarray:
    if isinstance(array, Tensor):
        array = array.detach().cpu().numpy()
    return np.asarray(array).astype(np.float64)
