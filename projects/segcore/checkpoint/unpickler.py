"""Reading of pickled checkpoints without executing the calls in a pickle.

A pickle is a program: it names callables of any module and has them called. This one may name the
few that rebuild NumPy arrays and plain containers. Even NumPy's own are replaced by functions that
check their arguments, because a crafted dtype or object array corrupts memory. Work and memory are
bounded by the size of the file and ``MAX_OPERATIONS``.
"""

import gc
import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import IO, Any, ClassVar

import numpy as np

from segcore.errors import UnsafeCheckpointError
from segcore.text import printable

# A model of 1,000 entries with an optimizer that has a group for each takes 160,000.
MAX_OPERATIONS = 600_000
_NUMERIC_KINDS = "biufc"
_STATE_VERSION = 1
_SCALARS = (str, int, float, bytes, type(None))  # bool is an int


class _DType:
    """Placeholder of a numeric NumPy dtype while its pickled state arrives."""

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
        require_scalars([shape])
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(
                f"{len(data)} bytes for an array of shape {printable(shape)} of {dtype}"
            )
        super().__setstate__((_STATE_VERSION, shape, dtype, bool(fortran_order), data))


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
    if kind is not _refuse_array:
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
        raise UnsafeCheckpointError(f"it holds bytes encoded as '{printable(encoding)}'")
    return _text(text).encode("latin1")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnsafeCheckpointError(f"it has a {type(value).__name__} where a text belongs")
    return value


def _refuse_array(*args: Any) -> None:
    raise UnsafeCheckpointError("it makes an array of arguments of its own")


def _no_bytes() -> bytes:
    return b""


def require_scalars(keys: Iterable[Any]) -> None:
    """Refuse keys other than texts, numbers and tuples of them.

    Hashing a tuple goes through all that is nested in it: without an end, or off the stack.
    """
    for key in keys:
        parts = key if type(key) is tuple else (key,)
        if not all(isinstance(part, _SCALARS) for part in parts):
            raise ValueError(f"expected texts and numbers as keys, got a {type(key).__name__}")


def _ordered_dict(items: Any = ()) -> OrderedDict:
    pairs = list(items.items() if isinstance(items, dict) else items)
    require_scalars(key for key, _ in pairs)
    return OrderedDict(pairs)


def _set(items: Iterable[Any] = ()) -> set:
    require_scalars(items)
    return set(items)


def _frozenset(items: Iterable[Any] = ()) -> frozenset:
    return frozenset(_set(items))


# NumPy 1 and NumPy 2; Python 2 and Python 3.
ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _refuse_array,  # named as an argument of _reconstruct only
    ("numpy", "dtype"): _make_dtype,
}
for _package in ("numpy.core", "numpy._core"):
    ADMITTED[_package + ".multiarray", "_reconstruct"] = _make_array
    ADMITTED[_package + ".multiarray", "scalar"] = _make_scalar
    ADMITTED[_package + ".numeric", "_frombuffer"] = _make_array_from_buffer
for _builtins in ("__builtin__", "builtins"):
    ADMITTED[_builtins, "set"] = _set
    ADMITTED[_builtins, "frozenset"] = _frozenset
    ADMITTED[_builtins, "bytes"] = _no_bytes


class _BoundedFile:
    """File that refuses to read beyond its end, before memory is allocated for it."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.readline = file.readline
        position = file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(position)

    def read(self, count: int) -> bytes:
        if count > self.size - self.file.tell():
            raise EOFError("the file ends too early")
        return self.file.read(count)


class _Operations(dict):
    """Operations by their code, with a count of those still allowed."""

    left = MAX_OPERATIONS

    def __getitem__(self, code: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"more than {MAX_OPERATIONS:,} operations in a pickle")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Any:
        operation = pickle._Unpickler.dispatch.get(code)
        if operation is None:
            raise ValueError(f"no operation of a pickle has the code {code}")
        raise UnsafeCheckpointError(f"it has the operation {operation.__name__}")


class RestrictedUnpickler(pickle._Unpickler):
    """Python's unpickler written in Python, with each risky operation replaced.

    The one in C allocates memory for any number that a file names.

    Args:
        file: binary and seekable, at the pickle.

    Attributes:
        admitted: names that a pickle may use, by module: functions that check their arguments.
    """

    admitted: ClassVar[Mapping[tuple[str, str], Any]] = ADMITTED

    def __init__(self, file: IO[bytes]):
        super().__init__(_BoundedFile(file), encoding="latin1")
        self.dispatch = _Operations(_OPERATIONS)

    def load(self) -> Any:
        enabled = gc.isenabled()
        gc.disable()  # or it goes through all of a large structure again and again as that grows
        try:
            return super().load()
        finally:
            if enabled:
                gc.enable()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            asked = printable(f"{module}.{name}")
            raise UnsafeCheckpointError(f"it asks for {asked}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeCheckpointError("it asks for an object outside of itself")

    def load_reduce(self) -> None:
        args = self.stack.pop()
        function = self.stack.pop()
        known = any(function is admitted for admitted in self.admitted.values())
        if not known or not isinstance(args, tuple):
            raise UnsafeCheckpointError(f"it calls a {type(function).__name__}")
        self.append(function(*args))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _DType | _Array):
            target.__setstate__(state)
        elif type(target) is not OrderedDict:
            raise UnsafeCheckpointError(f"it alters a {type(target).__name__}")
        elif isinstance(state, dict) and "_metadata" in state:  # versions of PyTorch's modules
            target._metadata = state["_metadata"]

    def load_bytearray8(self) -> None:
        self.load_binbytes8()
        self.stack[-1] = bytearray(self.stack[-1])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._update(items[::2], items[1::2])

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key], [value])

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._update(items[::2], items[1::2])

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise ValueError(f"items of a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(_set(items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # first: it replaces self.append
        self.append(_frozenset(items))

    def _update(self, keys: list[Any], values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise ValueError(f"keys of a {type(self.stack[-1]).__name__}")
        require_scalars(keys)
        for key, value in zip(keys, values, strict=True):
            self.stack[-1][key] = value


# Those that the class above has replaced, and without those that make objects in other ways.
_REFUSED = {"load_inst", "load_obj", "load_newobj", "load_newobj_ex", "load_ext1", "load_ext2"}
_REFUSED |= {"load_ext4", "load_next_buffer", "load_readonly_buffer"}
_OPERATIONS = {
    code: getattr(RestrictedUnpickler, operation.__name__)
    for code, operation in pickle._Unpickler.dispatch.items()
    if operation.__name__ not in _REFUSED
}
