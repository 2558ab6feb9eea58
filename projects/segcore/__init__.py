"""Shared parts of the segmentation systems: operators, layers, data, training, evaluation.

Importing this package needs nothing, ``segcore.ops`` nothing but PyTorch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported at first use: most need PyTorch and Detectron2.
_MODULES = {
    "Predictor": "segcore.predictor",
    "compile": "segcore.compilation",
    "list_models": "segcore.zoo",
    "load": "segcore.photo_model",
    "save_results": "segcore.photo_result",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
