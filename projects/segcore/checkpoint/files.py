"""Checkpoint files in and out: ``.pkl``, ``.safetensors``, else what torch.save writes."""

import json
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from segcore.checkpoint.unpickler import NUMPY_FOR_TORCH, load_pickle
from segcore.errors import UnsafeCheckpointError
from segcore.files import atomic_file

PICKLE_PROTOCOL = 4
# A .safetensors file holds tensors and one text; everything else travels in the text, as JSON.
SAFETENSORS_KEY = "checkpoint"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything that it holds.

    Returns:
        Detectron2's form: "model" (name -> CPU tensor; module versions kept in ``_metadata``) and
        what else the file has, such as "__author__", "matching_heuristics", "metadata", "trainer".

    Raises:
        FileNotFoundError: there is no such file.
        UnsafeCheckpointError: the file asks for more than tensors, arrays and plain containers.
        ValueError: the file is damaged, or holds no dictionary of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    if path.suffix == ".pkl":
        checkpoint = _from_pickle(_mapping(load_pickle(path), path))
    elif path.suffix == ".safetensors":
        checkpoint = _read_safetensors(path)
    else:
        checkpoint = _from_torch(_mapping(_torch_load(path), path))
    checkpoint["model"] = _as_tensors(_mapping(checkpoint["model"], path), path)
    return checkpoint


def write_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint of Detectron2's form atomically, in the format of the path's suffix.

    A ``.pkl`` holds NumPy arrays, as the official files do. A ``.safetensors`` file takes tensors
    under "model", and what JSON can express (with integer keys of dictionaries) beside it.

    Raises:
        ValueError: the suffix is none of .pth, .pkl, .safetensors.
    """
    writers: dict[str, Callable[[Mapping[str, Any], IO[bytes]], None]] = {
        ".pth": torch.save,
        ".pkl": _write_pickle,
        ".safetensors": _write_safetensors,
    }
    path = Path(path)
    if path.suffix not in writers:
        raise ValueError(f"{path}: expected a name ending in {', '.join(writers)}")
    with atomic_file(path) as file:
        writers[path.suffix](checkpoint, file)


def local_file(path: str | Path, path_manager: Any = PathManager) -> str:
    """The file of a path or Detectron2 URL, fetched if need be.

    Raises:
        FileNotFoundError: it does not exist or cannot be fetched.
    """
    if os.path.isfile(path):
        return str(path)
    try:
        local = path_manager.get_local_path(str(path))
    except OSError as error:
        raise FileNotFoundError(f"checkpoint {path} cannot be fetched: {error}") from error
    if not os.path.isfile(local):
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    return local


def _from_pickle(data: Mapping[str, Any]) -> dict[str, Any]:
    """The three layouts that Detectron2 knows: its own, Detectron 1's, Caffe2's ImageNet models."""
    if isinstance(data.get("model"), Mapping):
        return dict(data)
    blobs = data.get("blobs", data)
    model = {name: blob for name, blob in blobs.items() if not name.endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def _from_torch(data: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(data.get("model_state"), Mapping):  # pycls
        state = data["model_state"].items()
        model = {name: value for name, value in state if not name.endswith("num_batches_tracked")}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}
    for key in ("model", "state_dict"):
        if isinstance(data.get(key), Mapping):
            return {**{k: v for k, v in data.items() if k != key}, "model": data[key]}
    return {"model": data}


def _torch_load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(NUMPY_FOR_TORCH):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file fails in any way its bytes suggest
        # torch wraps the reason, its own or that of our functions for NumPy's data, in advice.
        reason = re.search(r"GLOBAL (\S+)|^(it (?:holds|makes|has|alters) .+)$", str(error), re.M)
        if isinstance(error, pickle.UnpicklingError) and reason:
            raise UnsafeCheckpointError(
                f"{path} is refused: {reason[2] or f'it asks for {reason[1]}'}. A checkpoint may "
                "hold tensors, NumPy arrays and plain containers, nothing else, because a pickle "
                "can execute any code."
            ) from None
        raise ValueError(f"{path} is damaged or no file of torch.save: {error!r}") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            names = list(file.keys())
            model = OrderedDict((name, file.get_tensor(name)) for name in names)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    extra = json.loads(header.get(SAFETENSORS_KEY, "{}"), object_hook=_restore_integer_keys)
    if versions := extra.pop("_metadata", None):
        model._metadata = OrderedDict(versions)
    return {**extra, "model": model}


def _write_safetensors(checkpoint: Mapping[str, Any], file: IO[bytes]) -> None:
    extra = {key: value for key, value in checkpoint.items() if key != "model"}
    if versions := getattr(checkpoint["model"], "_metadata", None):
        extra["_metadata"] = versions
    try:
        text = json.dumps(extra)
    except TypeError as error:
        raise ValueError(
            f"a .safetensors file takes tensors under 'model' only, beside it plain data: {error}"
        ) from error
    # Shared or strided storage cannot be written; a tensor of its own can.
    model = checkpoint["model"].items()
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in model}
    file.write(save(tensors, {SAFETENSORS_KEY: text}))


def _write_pickle(checkpoint: Mapping[str, Any], file: IO[bytes]) -> None:
    model = OrderedDict((name, t.detach().cpu().numpy()) for name, t in checkpoint["model"].items())
    if versions := getattr(checkpoint["model"], "_metadata", None):
        model._metadata = versions
    pickle.dump({**checkpoint, "model": model}, file, protocol=PICKLE_PROTOCOL)


def _restore_integer_keys(record: dict[str, Any]) -> dict[Any, Any]:
    """JSON turns the integer keys of a dictionary into texts."""
    if record and all(key.lstrip("-").isdecimal() for key in record):
        return {int(key): value for key, value in record.items()}
    return record


def _mapping(data: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise ValueError(
            f"{path}: expected a dictionary of names and tensors, got a {type(data).__name__}"
        )
    return data


def _as_tensors(model: Mapping[str, Any], path: Path) -> "OrderedDict[str, torch.Tensor]":
    tensors = OrderedDict((name, _as_tensor(value, name, path)) for name, value in model.items())
    if isinstance(versions := getattr(model, "_metadata", None), Mapping):
        tensors._metadata = versions
    return tensors


def _as_tensor(value: Any, name: str, path: Path) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic):
        native = np.asarray(value, dtype=value.dtype.newbyteorder("="))
        return torch.from_numpy(native if native.flags.writeable else native.copy())
    raise ValueError(f"{path}: entry {name!r} is a {type(value).__name__}, expected a tensor")
