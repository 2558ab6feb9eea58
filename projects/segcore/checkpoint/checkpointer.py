"""Detectron2's checkpointer, made safe and talkative."""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.data import Metadata
from torch import nn

from segcore.checkpoint.files import local_file, read_checkpoint, write_checkpoint
from segcore.checkpoint.metadata import METADATA_KEY, plain_metadata
from segcore.checkpoint.report import LoadReport
from segcore.files import atomic_file

State = OrderedDict[str, torch.Tensor]
WRAPPER_PREFIX = "module."


class SafeCheckpointer(DetectionCheckpointer):
    """Loads ``.pkl``, ``.pth`` and ``.safetensors`` without executing what they hold.

    It differs from the stock class in four things: files are read by ``read_checkpoint``; what was
    loaded, renamed, missing, left over or of another shape is logged as one table and kept in
    ``report``; a model may offer ``checkpoint_renames`` (see ``names.Renaming``) for the names of
    other layouts, which are then renamed before shapes are compared, or dropped; files are written
    atomically and take the names of the classes along.

    Args:
        model: the model, or one wrapped for data-parallel training.
        save_dir: where checkpoints are written and the last one is found.
        save_to_disk: by default on the main process only.
        metadata: of the training data set; its classes are stored in every checkpoint.
        checkpointables: what else has a state, such as ``trainer``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        metadata: Metadata | None = None,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.metadata = metadata
        self.report: LoadReport | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables, ``kwargs`` and classes to ``<save_dir>/<name>.pth``."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        checkpoint = {"model": self.model.state_dict(), **states, **kwargs}
        if self.metadata is not None:
            checkpoint[METADATA_KEY] = plain_metadata(self.metadata)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        write_checkpoint(checkpoint, path)
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_file(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file or Detectron2 URL; an empty path loads nothing.

        Raises:
            FileNotFoundError: the file does not exist or cannot be fetched.
            UnsafeCheckpointError: the file asks for more than tensors and plain containers.
            ValueError: the file is damaged, or nothing in it fits the model.
        """
        if path:
            path = local_file(path, self.path_manager)
        # fvcore's load, past DetectionCheckpointer's: that one reads files in ways of its own.
        return super(DetectionCheckpointer, self).load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        self.report = LoadReport(source=filename)
        return read_checkpoint(filename)

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        state = _without_wrapper_prefix(checkpoint.pop("model"))
        renames = _renames(self.model, state, checkpoint)
        load_state(self.model, state, renames, self.report)
        if state and not self.report.loaded:
            raise ValueError(f"nothing in this checkpoint fits the model.\n{self.report.table()}")
        self.logger.info(self.report.table())


def load_state(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    renames: Mapping[str, str | None],
    report: LoadReport,
) -> None:
    """Load what fits by name and shape, and write into ``report`` what became of the entries.

    Args:
        state: names -> tensors, with module versions in ``_metadata`` where the file had them.
        renames: name in ``state`` -> name in the model, None for an entry to drop.

    Raises:
        ValueError: two entries claim the same name.
    """
    own = model.state_dict(keep_vars=True)
    fitting = OrderedDict()
    if hasattr(state, "_metadata"):
        fitting._metadata = state._metadata
    names_in_file: dict[str, str] = {}
    for old, tensor in state.items():
        name = renames.get(old, old)
        if name is None:
            report.dropped.append(old)
            continue
        if name in names_in_file:
            raise ValueError(f"{report.source}: both {names_in_file[name]} and {old} mean {name}")
        names_in_file[name] = old
        if name in own and name != old:
            report.renamed[old] = name
        if name in own and not _fits(tensor, own[name]):
            report.other_shape[name] = (tuple(tensor.shape), tuple(own[name].shape))
        else:
            fitting[name] = tensor

    incompatible = model.load_state_dict(fitting, strict=False)
    report.left_over = [names_in_file.get(name, name) for name in incompatible.unexpected_keys]
    if fitting.keys() - own.keys() <= set(incompatible.unexpected_keys):
        absent = own.keys() - fitting.keys()
    else:  # the model took names that are not its own: only it knows what it found
        absent = set(incompatible.missing_keys)
    report.missing = _missing(own, absent, report.other_shape)
    fresh = set(report.fresh())
    report.loaded = [name for name in own if name not in fresh]
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    report.parameters_total = sum(sizes.values())
    report.parameters_loaded = sum(sizes.get(key, 0) for key in {id(own[n]) for n in report.loaded})


def _missing(own: State, absent: set[str], other_shape: Iterable[str]) -> list[str]:
    """Absent names; a parameter shared by two modules is there once one of its names is."""
    present = {id(tensor) for name, tensor in own.items() if name not in absent}
    return [
        name
        for name, tensor in own.items()
        if name in absent and name not in other_shape and id(tensor) not in present
    ]


def _fits(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    return nn.parameter.is_lazy(own) or tensor.shape == own.shape


def _without_wrapper_prefix(state: State) -> State:
    """Names as they are without the wrapper of data-parallel training."""
    if state and all(name.startswith(WRAPPER_PREFIX) for name in state):
        nn.modules.utils.consume_prefix_in_state_dict_if_present(state, WRAPPER_PREFIX)
    return state


def _renames(
    model: nn.Module, state: State, checkpoint: Mapping[str, Any]
) -> dict[str, str | None]:
    if state and checkpoint.get("matching_heuristics"):
        return match_by_suffix(model, state, caffe2=checkpoint.get("__author__") == "Caffe2")
    offered = getattr(model, "checkpoint_renames", None)
    return dict(offered(list(state))) if offered else {}


def match_by_suffix(model: nn.Module, state: State, caffe2: bool) -> dict[str, str]:
    """Detectron2's matching of a backbone's names with the ends of the model's names.

    ``state`` takes the values that Detectron2's conversion gives (Caffe2 orders some classes
    otherwise), under the names of the file.

    Returns:
        name in the file -> name in the model, also where only the shape differs.
    """
    own = model.state_dict()
    with _quiet(align_and_update_state_dicts.__module__):
        aligned = align_and_update_state_dicts(own, dict(state), caffe2)
    names = {id(tensor): name for name, tensor in state.items()}
    renames = {}
    for new, tensor in aligned.items():
        old = names.get(id(tensor), new)
        state[old] = tensor
        renames[old] = new if new in own else _only_end(new, own.keys() - aligned.keys())
    return renames


def _only_end(name: str, candidates: Iterable[str]) -> str:
    """The one candidate that ends in ``name``, or ``name`` itself."""
    matches = [candidate for candidate in candidates if candidate.endswith("." + name)]
    return matches[0] if len(matches) == 1 else name


@contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Detectron2's own messages on the matching, which the table repeats."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
