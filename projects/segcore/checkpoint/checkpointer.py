"""Detectron2's checkpointer, made safe and talkative."""

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from torch import nn

from segcore.checkpoint.classes import (
    ClassRows,
    class_difference,
    class_list,
    class_order,
    permute_classes,
    stored_class_count,
)
from segcore.checkpoint.files import local_file, read_checkpoint, write_checkpoint
from segcore.checkpoint.metadata import METADATA_KEY, class_metadata, plain_metadata
from segcore.checkpoint.reading import reading
from segcore.checkpoint.report import LoadReport
from segcore.checkpoint.training_state import load_training_state
from segcore.errors import CheckpointError, ConfigError
from segcore.files import atomic_file
from segcore.loggers import without_warnings_of
from segcore.text import printable

State = OrderedDict[str, torch.Tensor]
WRAPPER_PREFIX = "module."
CONFIG_KEY = "config"
HEURISTICS_KEY = "matching_heuristics"
LAST_CHECKPOINT = "last_checkpoint"
MAX_FILE_NAME = 255


class SafeCheckpointer(DetectionCheckpointer):
    """Loads ``.pkl``, ``.pth`` and ``.safetensors`` without executing what they hold.

    It differs from the stock class in this: files are read by ``read_checkpoint``; what was loaded,
    renamed, missing, left over or of another shape is logged as one table and kept in ``report``;
    a model may offer ``checkpoint_renames`` (see ``names.Renaming``) for the names of other
    layouts, which are then renamed before shapes are compared, or dropped; classes are matched by
    their names, if the model offers ``class_rows`` (see ``classes.ClassRows``); files are written
    atomically and take the config and the names of the classes along.

    Args:
        model: the model, or one wrapped for data-parallel training.
        save_dir: where checkpoints are written and the last one is found.
        save_to_disk: by default on the main process only.
        metadata: of the data set that the model is trained or evaluated on; its classes are stored
            in every checkpoint, and compared with those of a checkpoint that is loaded.
        config: stored in every checkpoint.
        complete: as evaluation and prediction need it, all weights must come from the file, and
            its classes must be those of ``metadata``.
        checkpointables: what else has a state, such as ``trainer``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        metadata: Metadata | None = None,
        config: CfgNode | None = None,
        complete: bool = False,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.metadata = metadata
        self.config = config
        self.complete = complete
        self.report: LoadReport | None = None

    @classmethod
    def for_evaluation(cls, model: nn.Module, cfg: CfgNode) -> "SafeCheckpointer":
        """The checkpointer that evaluates a model on the first data set of ``DATASETS.TEST``."""
        names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
        return cls(
            model,
            cfg.OUTPUT_DIR,
            metadata=MetadataCatalog.get(names[0]) if names else None,
            complete=not cfg.TEST.ALLOW_MISSING_WEIGHTS,
        )

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables, ``kwargs``, config and classes to ``save_dir/name.pth``."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        checkpoint = {"model": self.model.state_dict(), **states, **kwargs}
        if self.metadata is not None:
            checkpoint[METADATA_KEY] = plain_metadata(self.metadata)
        if self.config is not None:
            checkpoint[CONFIG_KEY] = self.config.dump()
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        write_checkpoint(checkpoint, path)
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_file(os.path.join(self.save_dir, LAST_CHECKPOINT)) as file:
            file.write(last_filename_basename.encode())

    def get_checkpoint_file(self) -> str:
        return str(last_checkpoint(self.save_dir) or "")

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file or Detectron2 URL; an empty path loads nothing.

        As Detectron2's, a path may end in ``?matching_heuristics=True``: names of weights are then
        matched by their ends.

        Raises:
            UnsafeCheckpointError: the file asks for more than tensors and plain containers.
            CheckpointError: see :func:`local_file`, :func:`read_checkpoint` and
                :meth:`load_checkpoint`.
            ConfigError: there is no path, and the weights must be complete.
        """
        if path:
            path, heuristics = split_heuristics(path)
            path = local_file(path, self.path_manager)
            self.logger.info(f"Loading checkpoint {printable(path)}")
            checkpoint = read_checkpoint(path)
            if heuristics:
                checkpoint[HEURISTICS_KEY] = True
            return self.load_checkpoint(checkpoint, path, checkpointables)
        if self.complete:
            raise ConfigError(
                "no weights: expected a checkpoint as MODEL.WEIGHTS, as results of random weights "
                "mean nothing (TEST.ALLOW_MISSING_WEIGHTS True admits them)"
            )
        self.logger.info("No checkpoint: all weights have their initial values")
        return {}

    def load_checkpoint(
        self, checkpoint: Mapping[str, Any], source: str, checkpointables: list[str] | None = None
    ) -> dict[str, Any]:
        """Load what :func:`read_checkpoint` returned.

        Args:
            source: the file, for messages.
            checkpointables: names of those to load; by default all of them.

        Returns:
            what was not loaded into anything.

        Raises:
            CheckpointError: nothing in the file fits the model, or not all where it must; it has
                weights that are not finite; its classes are others than they must be; the state of
                the training is another run's.
        """
        rest = dict(checkpoint)
        states = list(self.checkpointables) if checkpointables is None else checkpointables
        self.report = LoadReport(source=source)
        self._load_model(rest, resumes=bool(states))
        for key in states:
            load_training_state(self.checkpointables[key], key, rest, source)
            rest.pop(key)
        return rest

    def _load_model(self, checkpoint: dict[str, Any], *, resumes: bool = False) -> None:
        state = _without_wrapper_prefix(checkpoint.pop("model"))
        renames = _renames(self.model, state, checkpoint, self.report.source)
        state = self._match_classes(state, renames, class_metadata(checkpoint), resumes)
        load_state(self.model, state, renames, self.report)
        missing = required_entries(self.model).intersection(self.report.fresh())
        incomplete = bool(self.complete and missing)
        nothing_fits = not self.report.loaded
        log = self.logger.warning if incomplete or nothing_fits else self.logger.info
        log(self.report.table())
        if nothing_fits:
            raise CheckpointError(
                f"{printable(self.report.source)}: nothing in this checkpoint fits the model: does "
                "it belong to this config? Its first entry is "
                f"'{printable(next(iter(state), ''), 80)}', the model's '{next(iter(missing), '')}'"
            )
        if incomplete:
            raise CheckpointError(self._incomplete_message(missing))

    def _incomplete_message(self, missing: set[str]) -> str:
        report, rows = self.report, _class_rows(self.model)
        in_file = stored_class_count(rows, report.other_shape)
        reason = f"such as {', '.join(sorted(missing)[:2])}"
        if in_file is not None:
            in_model = len({index for classes in rows.values() for index in classes})
            reason += f"; it has {in_file} classes, the model {in_model}"
        return (
            f"{printable(report.source)}: {len(missing)} entries of the model are not in this "
            f"checkpoint, or of another shape, {reason}.\nResults would be random: does it belong "
            "to this config? (TEST.ALLOW_MISSING_WEIGHTS True admits it; the log has a table)"
        )

    def _match_classes(
        self, state: State, renames: Mapping[str, Any], stored: Metadata | None, resumes: bool
    ) -> State:
        """The state with its classes in the order of ``metadata``.

        Raises:
            CheckpointError: the classes are others, and must be the same.
        """
        rows = _class_rows(self.model)
        names = {renames.get(old, old): old for old in state}
        if stored is None or self.metadata is None or (rows and not rows.keys() & names.keys()):
            return state
        count = len({index for classes in rows.values() for index in classes}) or None
        old, new = class_list(stored, count), class_list(self.metadata, count)
        difference = class_difference(old, new) if old and new else None
        if difference is None:
            return state
        source = f"{printable(self.report.source)}, data set '{printable(self.metadata.name)}'"
        order = class_order(old, new)
        if order is not None and rows and not resumes:
            self.logger.warning(
                f"{source}: the same classes in another order ({difference}): the rows of "
                f"{', '.join(rows)} are put into the order of the data set"
            )
            fitting = {name: state[names[name]] for name in rows if name in names}
            permuted = permute_classes(fitting, rows, order)
            replaced = OrderedDict(state)
            replaced.update({names[name]: tensor for name, tensor in permuted.items()})
            if hasattr(state, "_metadata"):
                replaced._metadata = state._metadata
            return replaced
        message = f"{source}: the checkpoint was trained on other classes: {difference}"
        if resumes or self.complete:
            way = "" if resumes else " (TEST.ALLOW_MISSING_WEIGHTS True admits it)"
            raise CheckpointError(message + way)
        self.logger.warning(f"{message}. A class head of the same shape is taken over as it is")
        return state


def split_heuristics(path: str) -> tuple[str, bool]:
    """Split ``file?matching_heuristics=True``: the path, and whether to match by heuristics.

    A file whose name has a question mark, and other queries of an URL, stay as they are.

    Raises:
        ConfigError: the value is neither True nor False.
    """
    file, mark, query = path.rpartition("?")
    name, _, value = query.partition("=")
    if not mark or name != HEURISTICS_KEY or os.path.isfile(path):
        return path, False
    if value not in ("True", "False"):
        raise ConfigError(
            f"{printable(path)}: expected {HEURISTICS_KEY}=True or False, got "
            f"'{printable(value, 80)}'"
        )
    return file, value == "True"


def last_checkpoint(folder: str | Path) -> Path | None:
    """The file that ``last_checkpoint`` in a training output folder names, None without one.

    Raises:
        CheckpointError: it names no file of the folder.
    """
    pointer = Path(folder, LAST_CHECKPOINT)
    if not pointer.is_file():
        return None
    with reading(pointer), open(pointer, "rb") as file:
        name = file.read(MAX_FILE_NAME + 1).decode().strip()
    if not name or name in (".", "..") or Path(name).name != name or "\0" in name:
        raise CheckpointError(
            f"{printable(pointer)}: expected the name of a file in the same folder, "
            f"got '{printable(name, 80)}'"
        )
    return Path(folder, name)


def required_entries(model: nn.Module) -> set[str]:
    """Names of the state dict that results depend on: parameters, and statistics of norms.

    Integers count batches or index tables of fixed content; the criterion serves training.
    """
    return {
        name
        for name, tensor in model.state_dict(keep_vars=True).items()
        if (isinstance(tensor, nn.Parameter) or tensor.is_floating_point())
        and not name.startswith("criterion.")
    }


def _class_rows(model: nn.Module) -> ClassRows:
    return model.class_rows() if hasattr(model, "class_rows") else {}


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
        CheckpointError: two entries claim the same name, or a tensor is of another kind of numbers
            than the model's or not finite.
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
            both = f"{printable(names_in_file[name])} and {printable(old)}"
            raise CheckpointError(f"{printable(report.source)}: both {both} mean {printable(name)}")
        names_in_file[name] = old
        if name in own and name != old:
            report.renamed[old] = name
        if name in own and not _fits(tensor, own[name]):
            report.other_shape[name] = (tuple(tensor.shape), tuple(own[name].shape))
        else:
            if name in own:
                _require_usable(tensor, own[name], name, report.source)
            fitting[name] = tensor

    with reading(report.source):
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


def _require_usable(tensor: torch.Tensor, own: torch.Tensor, name: str, source: str) -> None:
    if tensor.is_floating_point() != own.is_floating_point():
        raise CheckpointError(
            f"{printable(source)}: entry {printable(name)} is of {tensor.dtype}, "
            f"expected {own.dtype}"
        )
    known = tensor.is_floating_point() and not tensor.is_meta
    if known and not tensor.to(own.dtype).isfinite().all():
        raise CheckpointError(
            f"{printable(source)}: entry {printable(name)} has values that are not finite"
        )


def _fits(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    return nn.parameter.is_lazy(own) or tensor.shape == own.shape


def _without_wrapper_prefix(state: State) -> State:
    """Names as they are without the wrapper of data-parallel training."""
    if state and all(name.startswith(WRAPPER_PREFIX) for name in state):
        nn.modules.utils.consume_prefix_in_state_dict_if_present(state, WRAPPER_PREFIX)
    return state


def _renames(
    model: nn.Module, state: State, checkpoint: Mapping[str, Any], source: str
) -> dict[str, str | None]:
    if state and checkpoint.get(HEURISTICS_KEY) is True:
        author = checkpoint.get("__author__")
        with reading(source):  # Detectron2's conversions rely on names and shapes
            return match_by_suffix(
                model, state, caffe2=isinstance(author, str) and author == "Caffe2"
            )
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
    # Its messages on the matching are repeated by the table.
    with without_warnings_of(align_and_update_state_dicts.__module__):
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
