"""Names of entries in the checkpoints of other programs."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segcore.errors import CheckpointError
from segcore.text import printable

# Maps the names of a state dict that differ from ours to our names, or to None for unused entries.
Renaming = Callable[[Iterable[str]], dict[str, str | None]]

# Parts of a fused projection, in the order of its rows.
QKV = "qkv"

# MMDetection and its engine write their versions into "meta", beside "state_dict".
_MMDETECTION_VERSIONS = {"mmdet_version", "mmcv_version", "mmengine_version"}


def is_from_mmdetection(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether the entries beside the weights are those of a file of MMDetection.

    The official code of Panoptic SegFormer is built on it, so that its files are too.
    """
    meta = checkpoint.get("meta")
    return isinstance(meta, Mapping) and not _MMDETECTION_VERSIONS.isdisjoint(meta)


def join_projections(entries: Iterable[tuple[str, str, Tensor]]) -> dict[str, Tensor]:
    """Collect entries, and concatenate those of attention that another program keeps apart.

    Args:
        entries: name, part and tensor; the part is "q", "k" or "v", whose rows the entry of this
            name has in this order, or "" for a whole entry.

    Raises:
        CheckpointError: of a fused projection, some parts are missing.
    """
    joined: dict[str, Tensor] = {}
    fused: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, part, tensor in entries:
        if part:
            fused[name][part] = tensor
        else:
            joined[name] = tensor
    for name, parts in fused.items():
        if parts.keys() != set(QKV):
            raise CheckpointError(
                f"{printable(name)}: expected query, key and value projections, got {sorted(parts)}"
            )
        joined[name] = torch.cat([parts[part] for part in QKV])
    return joined


def rename_on_load(model: nn.Module, renaming: Renaming) -> None:
    """Make ``model.load_state_dict`` also accept the names that ``renaming`` knows."""
    model.register_load_state_dict_pre_hook(partial(_rename, renaming))


def _rename(
    renaming: Renaming, module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any
) -> None:
    names = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
    for old, new in renaming(names).items():
        value = state_dict.pop(prefix + old)
        if new is not None:
            state_dict[prefix + new] = value
