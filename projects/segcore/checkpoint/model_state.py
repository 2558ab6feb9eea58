"""State dicts of files into models: by names, by renamed names, or by the ends of names."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import nn

from segcore.checkpoint.reading import reading
from segcore.checkpoint.report import LoadReport
from segcore.errors import CheckpointError
from segcore.loggers import without_warnings_of
from segcore.text import printable

State = OrderedDict[str, torch.Tensor]
WRAPPER_PREFIX = "module."
HEURISTICS_KEY = "matching_heuristics"


def required_entries(model: nn.Module) -> set[str]:
    """Return the names of the state dict that results depend on: parameters, norm statistics.

    Integers count batches or index tables of fixed content; the criterion serves training.
    """
    return {
        name
        for name, tensor in model.state_dict(keep_vars=True).items()
        if (isinstance(tensor, nn.Parameter) or tensor.is_floating_point())
        and not name.startswith("criterion.")
    }


def load_state(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    renames: Mapping[str, str | None],
    report: LoadReport,
) -> None:
    """Load entries that fit by name and shape; record the fate of every entry in ``report``.

    Args:
        state: names -> tensors, with module versions in ``_metadata`` if the file has them.
        renames: name in ``state`` -> name in the model, None for an entry to drop.

    Raises:
        CheckpointError: two entries claim the same name, or a tensor is of another kind of numbers
            than the model's or not finite.
    """
    expected = model.state_dict(keep_vars=True)
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
        if name in expected and name != old:
            report.renamed[old] = name
        if name in expected and not _fits(tensor, expected[name]):
            report.other_shape[name] = (tuple(tensor.shape), tuple(expected[name].shape))
        else:
            if name in expected:
                _require_usable(tensor, expected[name], name, report.source)
            fitting[name] = tensor

    with reading(report.source):
        incompatible = model.load_state_dict(fitting, strict=False)
    report.left_over = [names_in_file.get(name, name) for name in incompatible.unexpected_keys]
    if fitting.keys() - expected.keys() <= set(incompatible.unexpected_keys):
        absent = expected.keys() - fitting.keys()
    else:  # a hook of the model took names that it does not have: only the model knows
        absent = set(incompatible.missing_keys)
    report.missing = _missing(expected, absent, report.other_shape)
    fresh = set(report.fresh())
    report.loaded = [name for name in expected if name not in fresh]
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    report.parameters_total = sum(sizes.values())
    loaded = {id(expected[name]) for name in report.loaded}
    report.parameters_loaded = sum(sizes.get(key, 0) for key in loaded)


def _missing(expected: State, absent: set[str], other_shape: Iterable[str]) -> list[str]:
    """Return absent names; a parameter shared by two modules is there once one of its names is."""
    present = {id(tensor) for name, tensor in expected.items() if name not in absent}
    return [
        name
        for name, tensor in expected.items()
        if name in absent and name not in other_shape and id(tensor) not in present
    ]


def _require_usable(tensor: torch.Tensor, expected: torch.Tensor, name: str, source: str) -> None:
    if tensor.is_floating_point() != expected.is_floating_point():
        raise CheckpointError(
            f"{printable(source)}: entry {printable(name)} is of {tensor.dtype}, "
            f"expected {expected.dtype}"
        )
    known = tensor.is_floating_point() and not tensor.is_meta
    if known and not tensor.to(expected.dtype).isfinite().all():
        raise CheckpointError(
            f"{printable(source)}: entry {printable(name)} has values that are not finite"
        )


def _fits(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    return nn.parameter.is_lazy(expected) or tensor.shape == expected.shape


def without_wrapper_prefix(state: State) -> State:
    """Remove the prefix that wrappers for data-parallel training put before every name."""
    if state and all(name.startswith(WRAPPER_PREFIX) for name in state):
        nn.modules.utils.consume_prefix_in_state_dict_if_present(state, WRAPPER_PREFIX)
    return state


def find_renames(
    model: nn.Module, state: State, checkpoint: Mapping[str, Any], source: str
) -> dict[str, str | None]:
    """Map names of a file to names of the model, by the file's heuristics or the model's renaming.

    Args:
        state: the weights; with heuristics it takes converted values, see :func:`match_by_suffix`.
        checkpoint: the other entries of the file.
        source: the file, for messages.
    """
    if state and checkpoint.get(HEURISTICS_KEY) is True:
        author = checkpoint.get("__author__")
        with reading(source):  # Detectron2's conversions rely on names and shapes
            return match_by_suffix(
                model, state, caffe2=isinstance(author, str) and author == "Caffe2"
            )
    offered = offered_by(model, "checkpoint_renames")
    return dict(offered(list(state))) if offered else {}


def offered_by(model: nn.Module, name: str) -> Callable[..., Any] | None:
    """Return a method that a model offers, or a child of it where the model is Detectron2's."""
    offers = (getattr(part, name, None) for part in (model, *model.children()))
    return next(filter(None, offers), None)


def match_by_suffix(model: nn.Module, state: State, caffe2: bool) -> dict[str, str]:
    """Match the names of a backbone with the ends of the model's names, as Detectron2 does.

    The values of ``state`` are replaced by those that Detectron2's conversion gives (Caffe2 orders
    some classes in another way), under the names of the file.

    Returns:
        name in the file -> name in the model, also where only the shape differs.
    """
    expected = model.state_dict()
    # The report repeats its messages.
    with without_warnings_of(align_and_update_state_dicts.__module__):
        aligned = align_and_update_state_dicts(expected, dict(state), caffe2)
    names = {id(tensor): name for name, tensor in state.items()}
    renames = {}
    for new, tensor in aligned.items():
        old = names.get(id(tensor), new)
        state[old] = tensor
        renames[old] = new if new in expected else _only_end(new, expected.keys() - aligned.keys())
    return renames


def _only_end(name: str, candidates: Iterable[str]) -> str:
    """Return the only candidate that ends in ``name``, else ``name`` itself."""
    matches = [candidate for candidate in candidates if candidate.endswith("." + name)]
    return matches[0] if len(matches) == 1 else name
