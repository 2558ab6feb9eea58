"""Detectron2's checkpointer with safe reading and a report of every entry."""

import copy
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segcore.checkpoint.classes import (
    ClassRows,
    class_count,
    compare_classes,
    permute_classes,
    stored_class_count,
)
from segcore.checkpoint.files import local_file, read_checkpoint, write_checkpoint
from segcore.checkpoint.folder import last_checkpoint, tag_last_checkpoint
from segcore.checkpoint.metadata import METADATA_KEY, class_metadata, plain_metadata
from segcore.checkpoint.model_state import (
    HEURISTICS_KEY,
    State,
    find_renames,
    load_state,
    offered_by,
    required_entries,
    without_wrapper_prefix,
)
from segcore.checkpoint.names import is_from_mmdetection
from segcore.checkpoint.report import LoadReport
from segcore.checkpoint.sharing import SharedFile, from_main_process, shared_file
from segcore.checkpoint.training_state import load_training_state
from segcore.errors import CheckpointError, ConfigError
from segcore.text import printable

CONFIG_KEY = "config"
MMDETECTION_HINT = (
    "\nThe file was written by MMDetection, whose models have other layers and names: take the "
    "file that the official code of the paper offers"
)


class SafeCheckpointer(DetectionCheckpointer):
    """Loads ``.pkl``, ``.pth`` and ``.safetensors`` without executing what they hold.

    Differs from Detectron2's class as follows:

    * Files are read by :func:`read_checkpoint`.
    * Entries that are loaded, renamed, missing, left over or of another shape are logged as one
      table and kept in ``report``.
    * A model, or its head where the model is Detectron2's, may offer ``checkpoint_renames`` (see
      ``names.Renaming``) for the names of other layouts, which are then renamed before shapes are
      compared, or dropped.
    * A model may offer ``adapt_checkpoint(state, source)``, which returns the state dict of another
      layout as one of its own, where renaming is not enough.
    * Classes are matched by their names, if the model or its head offers ``class_rows`` (see
      ``classes.ClassRows``).
    * Files are written atomically and take the config and the names of the classes along.
    * Processes that cannot see a file get its bytes from the main process, and so the state of the
      training as well, not the weights alone.

    Args:
        model: the model, or one wrapped for data-parallel training.
        save_dir: folder for checkpoints, in which the last one is found.
        save_to_disk: by default on the main process only.
        metadata: data set that the model is trained or evaluated on; its classes are stored
            in every checkpoint, and compared with those of a checkpoint that is loaded.
        config: stored in every checkpoint.
        complete: require all weights from the file, and the classes of ``metadata``, as evaluation
            and prediction need it.
        saved_model: model with the weights to save, by default ``model``, which is loaded into.
        collective: all processes of the job load together, and the main process decides which
            file; by default if ``model`` is a DistributedDataParallel, as in Detectron2.
        checkpointables: other objects with a state, such as ``trainer``.
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
        saved_model: nn.Module | None = None,
        collective: bool | None = None,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.metadata = metadata
        self.config = config
        self.complete = complete
        self.saved_model = self.model if saved_model is None else saved_model
        if collective is None:
            collective = isinstance(model, DistributedDataParallel)
        self.collective = collective
        self.report: LoadReport | None = None

    @classmethod
    def for_evaluation(cls, model: nn.Module, cfg: CfgNode) -> "SafeCheckpointer":
        """Build a checkpointer that loads a model to evaluate it on ``DATASETS.TEST``.

        The classes of the first of these data sets count. All processes of a job must load.
        """
        names = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
        return cls(
            model,
            cfg.OUTPUT_DIR,
            metadata=MetadataCatalog.get(names[0]) if names else None,
            complete=not cfg.TEST.ALLOW_MISSING_WEIGHTS,
            collective=True,
        )

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables, ``kwargs``, config and classes to ``save_dir/name.pth``.

        The states are collected on every process that calls this, the file is written by the one
        that saves.
        """
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        if self.save_weights(name, **states, **kwargs):
            self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str, **entries: Any) -> bool:
        """Write model, ``entries``, config and classes, not as the last checkpoint of a training.

        Returns:
            Whether this process saves.
        """
        if not self.save_dir or not self.save_to_disk:
            return False
        checkpoint = {"model": self.saved_model.state_dict(), **entries}
        if self.metadata is not None:
            checkpoint[METADATA_KEY] = plain_metadata(self.metadata)
        if self.config is not None:
            checkpoint[CONFIG_KEY] = self.config.dump()
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        write_checkpoint(checkpoint, path)
        return True

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        tag_last_checkpoint(self.save_dir, last_filename_basename)

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Return the last checkpoint of ``save_dir`` ("" without one).

        Raises:
            CheckpointError: see :func:`last_checkpoint`.
        """
        find = partial(last_checkpoint, self.save_dir)
        path = from_main_process(find) if self.collective else find()
        return "" if path is None else str(path)

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
            with self._open(path) as (local, source):
                self.logger.info(f"Loading checkpoint {printable(source)}")
                checkpoint = read_checkpoint(local)
            if heuristics:
                checkpoint[HEURISTICS_KEY] = True
            return self.load_checkpoint(checkpoint, source, checkpointables)
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
            The entries that were not loaded into anything.

        Raises:
            CheckpointError: nothing in the file fits the model, or entries are missing that must
                not be; weights are not finite; the classes differ from those required; the state
                of the training is another run's.
        """
        rest = dict(checkpoint)
        states = list(self.checkpointables) if checkpointables is None else checkpointables
        self.report = LoadReport(source=source)
        self._load_model(rest, resumes=bool(states))
        for key in states:
            load_training_state(self.checkpointables[key], key, rest, source)
            rest.pop(key)
        return rest

    def _open(self, path: str) -> AbstractContextManager[SharedFile]:
        find = partial(local_file, path, self.path_manager)
        if self.collective:
            return shared_file(find)
        file = find()
        return nullcontext(SharedFile(file, source=file))

    def _load_model(self, checkpoint: dict[str, Any], *, resumes: bool = False) -> None:
        # A copy, with module versions: the next steps change names and rows in place.
        state = without_wrapper_prefix(copy.copy(checkpoint.pop("model")))
        if hasattr(self.model, "adapt_checkpoint"):
            state = self.model.adapt_checkpoint(state, self.report.source)
        renames = find_renames(self.model, state, checkpoint, self.report.source)
        state = self._match_classes(state, renames, class_metadata(checkpoint), resumes)
        load_state(self.model, state, renames, self.report)
        missing = required_entries(self.model).intersection(self.report.fresh())
        incomplete = bool(self.complete and missing)
        nothing_fits = not self.report.loaded
        hint = MMDETECTION_HINT if missing and is_from_mmdetection(checkpoint) else ""
        log = self.logger.warning if incomplete or nothing_fits or hint else self.logger.info
        log(self.report.table() + hint)
        if nothing_fits:
            raise CheckpointError(
                f"{printable(self.report.source)}: nothing in this checkpoint fits the model: does "
                "it belong to this config? Its first entry is "
                f"'{printable(next(iter(state), ''), 80)}', the model's '{next(iter(missing), '')}'"
                + hint
            )
        if incomplete:
            raise CheckpointError(self._incomplete_message(missing) + hint)

    def _incomplete_message(self, missing: set[str]) -> str:
        report, rows = self.report, _class_rows(self.model)
        in_file = stored_class_count(rows, report.other_shape)
        reason = f"such as {', '.join(sorted(missing)[:2])}"
        if in_file is not None:
            reason += f"; it has {in_file} classes, the model {class_count(rows)}"
        return (
            f"{printable(report.source)}: {len(missing)} entries of the model are not in this "
            f"checkpoint, or of another shape, {reason}.\nResults would be random: does it belong "
            "to this config? (TEST.ALLOW_MISSING_WEIGHTS True admits it; the log has a table)"
        )

    def _match_classes(
        self, state: State, renames: Mapping[str, Any], stored: Metadata | None, resumes: bool
    ) -> State:
        """Put the classes of ``state`` into the order of ``metadata``, in place; return it.

        Raises:
            CheckpointError: the classes are others, and must be the same.
        """
        rows = _class_rows(self.model)
        names_in_file = {renames.get(old, old): old for old in state}
        has_head = not rows or rows.keys() & names_in_file.keys()
        if stored is None or self.metadata is None or not has_head:
            return state
        difference, order = compare_classes(stored, self.metadata, class_count(rows))
        if difference is None:
            return state
        source = f"{printable(self.report.source)}, data set '{printable(self.metadata.name)}'"
        if order is not None and rows and not resumes:
            self.logger.warning(
                f"{source}: the same classes in another order ({difference}): the rows of "
                f"{', '.join(rows)} are put into the order of the data set"
            )
            heads = {name: state[names_in_file[name]] for name in rows if name in names_in_file}
            for name, tensor in permute_classes(heads, rows, order).items():
                state[names_in_file[name]] = tensor
            return state
        message = f"{source}: the checkpoint was trained on other classes: {difference}"
        if resumes or self.complete:
            way = "" if resumes else " (TEST.ALLOW_MISSING_WEIGHTS True admits it)"
            raise CheckpointError(message + way)
        self.logger.warning(f"{message}. A class head of the same shape is taken over as it is")
        return state


def split_heuristics(path: str) -> tuple[str, bool]:
    """Split ``file?matching_heuristics=True`` into the path and whether to match by heuristics.

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


def _class_rows(model: nn.Module) -> ClassRows:
    offered = offered_by(model, "class_rows")
    return offered() if offered else {}
