"""Reading of pickled checkpoints without executing what a pickle may ask for.

A pickle is a program: it names callables of any module and has them called. This one may name the
few that rebuild NumPy arrays and plain containers. Even NumPy's own are replaced by functions that
check their arguments, because a crafted dtype or object array corrupts memory.
"""

import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from segcore.errors import UnsafeCheckpointError

_NUMERIC_KINDS = "biufc"
_STATE_VERSION = 1


class _DType:
    """Stands for a NumPy dtype while its pickled state arrives: numbers only."""

    __slots__ = ("dtype",)

    def __init__(self, code: str):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in _NUMERIC_KINDS:
            raise UnsafeCheckpointError(f"it holds an array of dtype {self.dtype}, not of numbers")

    def __setstate__(self, state: tuple) -> None:
        _, order, *structure, _, _, flags = state
        if any(part is not None for part in structure) or flags != 0:
            raise UnsafeCheckpointError("it holds a dtype with a structure of its own")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose pickled state is checked before NumPy sees it."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran_order, data = state
        dtype, data = _numeric(dtype), _as_bytes(data)
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes for an array of shape {shape} of {dtype}")
        super().__setstate__((_STATE_VERSION, shape, dtype, bool(fortran_order), data))


class _Admitted:
    """A callable that a pickle may name and call, but not alter."""

    __slots__ = ("_function",)

    def __init__(self, function):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise UnsafeCheckpointError("it alters a function")


def _numeric(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _DType):
        raise UnsafeCheckpointError(f"it holds an array of {type(dtype).__name__}, not of numbers")
    return dtype.dtype


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str):  # bytes of a Python 2 pickle, which encoding="latin1" makes a string
        data = data.encode("latin1")
    if not isinstance(data, bytes):
        raise UnsafeCheckpointError(f"it holds array data of type {type(data).__name__}, not bytes")
    return data


def _make_dtype(code: str, align: bool = False, copy: bool = False) -> _DType:
    return _DType(_text(code))


def _make_array(kind: Any, shape: tuple, code: Any) -> _Array:
    if kind is not _NDARRAY:
        raise UnsafeCheckpointError("it holds an array of an unknown class")
    return _Array((0,), dtype=np.uint8)  # shape, type and data follow by __setstate__


def _make_array_from_buffer(
    data: bytes | bytearray, dtype: _DType, shape: tuple, order: str, axis_order: Any = None
) -> np.ndarray:
    array = np.frombuffer(data, dtype=_numeric(dtype))
    if order == "K" and axis_order is not None:
        return array.reshape(shape).transpose(axis_order)
    return array.reshape(shape, order=order)


def _make_scalar(dtype: _DType, data: Any) -> np.generic:
    return np.frombuffer(_as_bytes(data), dtype=_numeric(dtype), count=1)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if _text(encoding) != "latin1":
        raise UnsafeCheckpointError(f"it holds bytes encoded as {encoding!r}")
    return _text(text).encode("latin1")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnsafeCheckpointError(f"it has a {type(value).__name__} where a text belongs")
    return value


def _refuse_array(*args: Any) -> None:
    raise UnsafeCheckpointError("it makes an array of arguments of its own")


def _no_bytes() -> bytes:
    return b""


_NDARRAY = _Admitted(_refuse_array)  # pickles name the class as an argument of _reconstruct only
_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Admitted(_encode),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Admitted(_make_dtype),
}
for _package in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
    _ADMITTED[_package + ".multiarray", "_reconstruct"] = _Admitted(_make_array)
    _ADMITTED[_package + ".multiarray", "scalar"] = _Admitted(_make_scalar)
    _ADMITTED[_package + ".numeric", "_frombuffer"] = _Admitted(_make_array_from_buffer)
for _builtins in ("__builtin__", "builtins"):  # Python 2 and Python 3
    _ADMITTED[_builtins, "set"] = set
    _ADMITTED[_builtins, "frozenset"] = frozenset
    _ADMITTED[_builtins, "bytes"] = _Admitted(_no_bytes)


# What torch.load may be asked for besides tensors: NumPy's numbers and generator states, through
# the functions above. The classes must be known for it to fill them; no file can name them, as a
# name ends at the end of its line.
NUMPY_FOR_TORCH = [
    *(
        (admitted, f"{module}.{name}")
        for (module, name), admitted in _ADMITTED.items()
        if module.startswith("numpy")
    ),
    *((kind, f"{kind.__name__}\n") for kind in (_DType, _Array)),
]


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise UnsafeCheckpointError(f"it asks for {module}.{name}") from None


def load_pickle(path: str | Path) -> Any:
    """Read a pickle of NumPy arrays and plain containers, by Python 2 or 3; nothing is executed.

    Raises:
        UnsafeCheckpointError: the pickle asks for anything else; names the file and the request.
        ValueError: the file is damaged or no pickle.
    """
    try:
        with open(path, "rb") as file:
            return _RestrictedUnpickler(file, encoding="latin1").load()
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"{path} is refused: {error}. A pickled checkpoint may hold NumPy arrays and plain "
            "containers, nothing else, because a pickle can execute any code."
        ) from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle fails in any way its bytes suggest
        raise ValueError(f"{path} is damaged or no pickle: {error!r}") from error
