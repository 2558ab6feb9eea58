"""Files of ``torch.save``: zip archives, and the legacy format before PyTorch 1.6.

``torch.load(weights_only=True)`` executes nothing either, but a crafted file of a kilobyte ends the
process, or has it ask for any amount of memory. Here tensors are views of bytes that the file has.
"""

import io
import math
import zipfile
from collections import Counter
from collections.abc import Sequence
from typing import IO, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from segcore.checkpoint.unpickler import ADMITTED, RestrictedUnpickler, require_scalars
from segcore.errors import UnsafeCheckpointError

ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# A legacy file starts with a pickle of the number: protocol, then the number in ten bytes.
LEGACY_START = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")
LEGACY_PROTOCOL = 1001

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Without complex, quantized and packed numbers.
_INTEGERS = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
_DTYPES = {name: getattr(torch, name) for name in _INTEGERS} | {
    name: dtype
    for name, dtype in vars(torch).items()
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point and not name.endswith("x2")
}


class _StorageKind(NamedTuple):
    """Type of a storage, named as ``torch.FloatStorage`` and so on in a pickle."""

    dtype: torch.dtype


class _Storage(NamedTuple):
    data: Tensor  # uint8 (bytes,)
    dtype: torch.dtype


def _make_tensor(
    storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> Tensor:
    return _view(storage, storage.dtype, offset, size, stride)


def _make_tensor_of_dtype(
    storage: _Storage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    requires_grad: bool,
    backward_hooks: Any,
    dtype: torch.dtype,
    *_: Any,
) -> Tensor:
    return _view(storage, dtype, offset, size, stride)


def _view(
    storage: _Storage, dtype: torch.dtype, offset: int, size: Sequence[int], stride: Sequence[int]
) -> Tensor:
    if not isinstance(storage, _Storage) or dtype not in _DTYPES.values():
        raise UnsafeCheckpointError("it makes a tensor of something else than numbers")
    elements = storage.data.view(dtype)
    if not all(isinstance(length, int) for length in size) or math.prod(size) > len(elements):
        raise ValueError(f"a tensor whose shape does not fit its {len(elements)} elements")
    return torch.as_strided(elements, size, stride, offset)


def _make_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _make_device(*device: Any) -> str:
    require_scalars(device)
    return ":".join(map(str, device))


def _counter(counts: dict[Any, int] | None = None) -> Counter:
    return Counter(dict(counts or {}))


class _TorchUnpickler(RestrictedUnpickler):
    admitted: ClassVar = {
        **ADMITTED,
        ("collections", "Counter"): _counter,
        ("torch._utils", "_rebuild_tensor"): _make_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _make_tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _make_tensor_of_dtype,
        ("torch._utils", "_rebuild_parameter"): _make_parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _make_parameter,
        ("torch", "Size"): tuple,
        ("torch", "device"): _make_device,
        ("torch.storage", "UntypedStorage"): _StorageKind(torch.uint8),
        **{("torch", name): dtype for name, dtype in _DTYPES.items()},
        **{
            (module, name): _StorageKind(dtype)
            for module in ("torch", "torch.cuda")
            for name, dtype in _STORAGE_DTYPES.items()
        },
    }


def load_torch_zip(file: IO[bytes], size: int) -> Any:
    """Read a zip archive of ``torch.save``.

    Args:
        file: at its start.
        size: size of the file in bytes.

    Raises:
        UnsafeCheckpointError: it asks for more than tensors, NumPy arrays and plain containers.
        Exception: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        _require_plain_entries(archive, size)
        programs = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise ValueError("a zip archive that torch.save has not written")
        folder = programs[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in archive.namelist():
            raise ValueError("a TorchScript program, expected weights that torch.save has written")
        byte_order = f"{folder}byteorder"
        if byte_order in archive.namelist() and archive.read(byte_order) != b"little":
            raise ValueError("expected numbers in little-endian order")
        storages: dict[str, Tensor] = {}

        def storage(pid: tuple) -> _Storage:
            kind, key, length, _ = _storage_request(pid)
            if key not in storages:
                content = bytearray(archive.read(f"{folder}data/{key}"))
                storages[key] = torch.frombuffer(content, dtype=torch.uint8) if content else _EMPTY
            if length * kind.dtype.itemsize != len(storages[key]):
                raise ValueError(f"{length} numbers of {kind.dtype} in {len(storages[key])} bytes")
            return _Storage(storages[key], kind.dtype)

        unpickler = _TorchUnpickler(io.BytesIO(archive.read(programs[0])))
        unpickler.persistent_load = storage
        return unpickler.load()


def load_torch_legacy(file: IO[bytes], size: int) -> Any:
    """Read a file of ``torch.save`` before PyTorch 1.6; see :func:`load_torch_zip`."""
    magic, protocol, system = (_TorchUnpickler(file).load() for _ in range(3))
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or not system["little_endian"]:
        raise ValueError("expected a little-endian file of PyTorch")
    storages: dict[str, _Storage] = {}

    def storage(pid: tuple) -> _Storage:
        kind, key, length, view = _storage_request(pid)
        width = kind.dtype.itemsize
        if key not in storages:
            if length * width + sum(len(known.data) for known in storages.values()) > size:
                raise ValueError(f"{length} numbers of {kind.dtype} in a file of {size} bytes")
            storages[key] = _Storage(torch.empty(length * width, dtype=torch.uint8), kind.dtype)
        whole = storages[key]
        if view is None:
            return whole
        _, start, view_length = view
        return _Storage(whole.data[start * width : (start + view_length) * width], whole.dtype)

    unpickler = _TorchUnpickler(file)
    unpickler.persistent_load = storage
    result = unpickler.load()
    keys = _TorchUnpickler(file).load()
    if set(keys) != set(storages):
        raise ValueError("the storages of its tensors are others than those that follow")
    for key in keys:
        data, dtype = storages[key]
        length = int.from_bytes(file.read(8), "little")
        if length * dtype.itemsize != len(data) or file.readinto(data.numpy()) != len(data):
            raise EOFError("the file ends too early")
    return result


_EMPTY = torch.empty(0, dtype=torch.uint8)


def _storage_request(pid: tuple) -> tuple[_StorageKind, str, int, Any]:
    """Return type, key and length of a storage, and in legacy files the view of it."""
    name, kind, key, _, length, *view = pid
    if name != "storage" or not isinstance(kind, _StorageKind):
        raise UnsafeCheckpointError("it asks for an object outside of itself")
    if not isinstance(key, str) or not isinstance(length, int) or length < 0:
        raise ValueError("a storage without name or length")
    return kind, key, length, view[0] if view else None


def _require_plain_entries(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse compressed archives: ``torch.save`` compresses nothing, decompression bombs do."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("a compressed archive, which torch.save does not write")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("an archive whose entries are larger than the file")
    if len(set(archive.namelist())) < len(entries):
        raise ValueError("an archive with several entries of one name")
