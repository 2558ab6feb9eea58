"""Shared parts of the segmentation systems: operators, layers, data, training, evaluation.

Importing this package needs nothing, ``segcore.ops`` nothing but PyTorch.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":  # imports PyTorch and Detectron2
        from segcore.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
