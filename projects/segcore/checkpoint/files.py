"""Reading and writing of checkpoint files: torch.save, pickles of arrays, ``.safetensors``."""

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from safetensors import safe_open
from safetensors.torch import save

from segcore.checkpoint.folder import last_checkpoint
from segcore.checkpoint.metadata import METADATA_KEY, checked_metadata
from segcore.checkpoint.reading import MAX_REASON, reading
from segcore.checkpoint.torch_files import (
    LEGACY_START,
    ZIP_START,
    load_torch_legacy,
    load_torch_zip,
)
from segcore.checkpoint.transformers import weights_of_folder
from segcore.checkpoint.unpickler import RestrictedUnpickler
from segcore.errors import CheckpointError, UserError
from segcore.files import atomic_file
from segcore.text import printable
from segcore.zoo.cache import ZooPathHandler

PICKLE_PROTOCOL = 4
# A .safetensors file holds tensors and one text; everything else travels in the text, as JSON.
SAFETENSORS_KEY = "checkpoint"
MAX_TEXT = 10_000_000
# The largest models of this repository have 1,500 entries.
MAX_ENTRIES = 20_000
MAX_NAME_LENGTH = 300

PathManager.register_handler(ZooPathHandler())


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it; the format is detected by content.

    Returns:
        Detectron2's form: "model" (name -> dense CPU tensor of real numbers; module versions stay
        in ``_metadata``) and what else the file has, such as "__author__", "matching_heuristics",
        "metadata" (see :func:`checked_metadata`), "config" (YAML text), "trainer".

    Raises:
        UnsafeCheckpointError: the file asks for more than tensors, arrays and plain containers.
        CheckpointError: there is no such file, it is damaged, or holds no dictionary of tensors.
    """
    path = Path(path)
    _require_file(path)
    with reading(path):
        checkpoint = _parse(path)
        model = _mapping(checkpoint["model"], path)
        checkpoint["model"] = _as_tensors(model, path)
        if METADATA_KEY in checkpoint:
            checkpoint[METADATA_KEY] = checked_metadata(checkpoint[METADATA_KEY], path)
    return checkpoint


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint of Detectron2's form atomically, in the format of the path's suffix.

    A ``.pkl`` holds NumPy arrays, as the official files do. A ``.safetensors`` file takes tensors
    under "model", and what JSON can express (with integer keys of dictionaries) beside it.

    Raises:
        CheckpointError: the suffix is not .pth, .pkl or .safetensors, or the format cannot store
            an entry.
    """
    writers: dict[str, Callable[[Mapping[str, Any], IO[bytes]], None]] = {
        ".pth": torch.save,
        ".pkl": _write_pickle,
        ".safetensors": _write_safetensors,
    }
    path = Path(path)
    if path.suffix not in writers:
        raise CheckpointError(f"{printable(path)}: expected a name ending in {', '.join(writers)}")
    with atomic_file(path) as file:
        writers[path.suffix](checkpoint, file)


def local_file(path: str | Path, path_manager: Any = PathManager) -> str:
    """Return the local file of a path, ``zoo://`` name or Detectron2 URL; download it if need be.

    The path of a training's output folder stands for its last checkpoint, that of a folder of
    Transformers for its weights.

    Raises:
        CheckpointError: it is no file, or cannot be fetched.
        ConfigError: there are no published weights of this name.
    """
    if os.path.isfile(path):
        return str(path)
    if os.path.isdir(path) and (weights := last_checkpoint(path) or weights_of_folder(path)):
        return str(weights)
    try:
        local = path_manager.get_local_path(str(path))
    except UserError:
        raise
    except Exception as error:  # each handler of URLs fails in its own way
        reason = printable(error, MAX_REASON) or type(error).__name__
        raise CheckpointError(
            f"checkpoint {printable(path)} cannot be fetched: {reason}"
        ) from error
    _require_file(Path(local))
    return local


def _require_file(path: Path) -> None:
    name = printable(path)
    try:
        if path.is_dir():
            raise CheckpointError(f"{name} is a folder, expected a checkpoint file")
        if not path.exists():
            raise CheckpointError(f"checkpoint {name}: no such file")
        if not path.is_file():
            raise CheckpointError(f"{name} is no regular file, expected a checkpoint file")
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be read: {error.strerror}") from error


def _parse(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{printable(path)} is damaged: it is empty")
    with open(path, "rb") as file:
        start = file.read(16)
        file.seek(0)
        if start.startswith(ZIP_START):
            return _from_torch(_mapping(load_torch_zip(file, size), path))
        if start[2:].startswith(LEGACY_START):
            return _from_torch(_mapping(load_torch_legacy(file, size), path))
        # The header and before it its length, below 4 GiB, whose first byte may be a pickle's.
        if start[8:9] == b"{" and not any(start[4:8]):
            return _read_safetensors(path)
        return _from_pickle(_mapping(RestrictedUnpickler(file).load(), path))


def _from_pickle(data: dict[str, Any]) -> dict[str, Any]:
    """Bring one of three layouts into Detectron2's form: its own, Detectron 1's, Caffe2's."""
    if isinstance(data.get("model"), dict):
        return dict(data)
    blobs = data["blobs"] if isinstance(data.get("blobs"), dict) else data
    model = {name: blob for name, blob in blobs.items() if not name.endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def _from_torch(data: dict[str, Any]) -> dict[str, Any]:
    if isinstance(data.get("model_state"), dict):  # pycls
        state = data["model_state"].items()
        model = {name: value for name, value in state if not name.endswith("num_batches_tracked")}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}
    for key in ("model", "state_dict"):
        if isinstance(data.get(key), dict):
            return {**{k: v for k, v in data.items() if k != key}, "model": data[key]}
    return {"model": data}


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        names = list(file.keys())
        if len(names) > MAX_ENTRIES:
            raise ValueError(f"{len(names):,} entries, expected at most {MAX_ENTRIES:,}")
        model = OrderedDict((name, file.get_tensor(name)) for name in names)
    text = header.get(SAFETENSORS_KEY, "{}")
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text of {len(text):,} characters, expected at most {MAX_TEXT:,}")
    extra = _mapping(json.loads(text, object_hook=_restore_integer_keys), path)
    if versions := extra.pop("_metadata", None):
        model._metadata = versions
    return {**extra, "model": model}


def _write_safetensors(checkpoint: Mapping[str, Any], file: IO[bytes]) -> None:
    extra = {key: value for key, value in checkpoint.items() if key != "model"}
    if versions := getattr(checkpoint["model"], "_metadata", None):
        extra["_metadata"] = versions
    try:
        text = json.dumps(extra)
    except TypeError as error:
        raise CheckpointError(
            f"a .safetensors file takes tensors under 'model' only, beside it plain data: {error}"
        ) from error
    # Shared or strided storage cannot be written; a tensor of its own can.
    model = checkpoint["model"].items()
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in model}
    file.write(save(tensors, {SAFETENSORS_KEY: text}))


def _write_pickle(checkpoint: Mapping[str, Any], file: IO[bytes]) -> None:
    try:
        model = OrderedDict((n, t.detach().cpu().numpy()) for n, t in checkpoint["model"].items())
    except TypeError as error:  # NumPy has no bfloat16
        raise CheckpointError(f"a .pkl file takes numbers that NumPy has: {error}") from error
    if versions := getattr(checkpoint["model"], "_metadata", None):
        model._metadata = versions
    pickle.dump({**checkpoint, "model": model}, file, protocol=PICKLE_PROTOCOL)


def _restore_integer_keys(record: dict[str, Any]) -> dict[Any, Any]:
    """Turn keys back into integers, which JSON writes as texts."""
    if record and all(key.lstrip("-").isdecimal() for key in record):
        return {int(key): value for key, value in record.items()}
    return record


def _mapping(data: Any, path: Path) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise CheckpointError(
            f"{printable(path)}: expected a dictionary of names and tensors, "
            f"got a {type(data).__name__}"
        )
    return data


def _as_tensors(model: dict[str, Any], path: Path) -> "OrderedDict[str, torch.Tensor]":
    if len(model) > MAX_ENTRIES:
        raise ValueError(f"{len(model):,} entries, expected at most {MAX_ENTRIES:,}")
    longest = max(map(len, model), default=0)
    if longest > MAX_NAME_LENGTH:
        raise ValueError(f"a name of {longest:,} characters, expected at most {MAX_NAME_LENGTH}")
    tensors = OrderedDict((name, _as_tensor(value, name, path)) for name, value in model.items())
    if versions := getattr(model, "_metadata", None):
        tensors._metadata = _module_versions(versions)
    return tensors


def _as_tensor(value: Any, name: str, path: Path) -> torch.Tensor:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind == "c" or value.dtype.itemsize > 8:
            raise ValueError(
                f"entry '{printable(name)}' is of {value.dtype}, expected real numbers"
            )
        native = np.asarray(value, dtype=value.dtype.newbyteorder("="))
        return torch.from_numpy(native if native.flags.writeable else native.copy())
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(
            f"{printable(path)}: entry '{printable(name)}' is a {type(value).__name__}, "
            "expected a tensor"
        )
    if value.is_complex():
        raise ValueError(f"entry '{printable(name)}' is of {value.dtype}, not of reals")
    return value


def _module_versions(versions: Any) -> dict[str, dict[str, int]]:
    """Check the ``_metadata`` of a state dict: module -> {"version": integer}."""
    for module, record in _module_records(versions):
        version = record.get("version", 1)
        if not isinstance(module, str) or not isinstance(version, int | None):
            raise ValueError(f"the version of module '{printable(module)}' is no integer")
    return OrderedDict(
        (module, {"version": record["version"]} if "version" in record else {})
        for module, record in versions.items()
    )


def _module_records(versions: Any) -> list[tuple[Any, dict]]:
    if not isinstance(versions, dict) or not all(isinstance(r, dict) for r in versions.values()):
        raise ValueError("_metadata: expected a dictionary of the versions of modules")
    return list(versions.items())
