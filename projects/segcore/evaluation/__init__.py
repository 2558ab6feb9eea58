"""Evaluators by data set, panoptic quality, test-time augmentation.

:class:`PanopticQuality` needs neither Detectron2 nor a data set, so that the others are imported
when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segcore.evaluation.panoptic_quality import PanopticQuality

if TYPE_CHECKING:
    from segcore.evaluation.build import (
        build_evaluator,
        register_evaluator,
        require_ground_truth,
    )
    from segcore.evaluation.check import check_evaluation
    from segcore.evaluation.expected import require_expected_results
    from segcore.evaluation.instance import InstanceSegEvaluator
    from segcore.evaluation.panoptic import PanopticEvaluator
    from segcore.evaluation.panopticapi_evaluator import PanopticapiEvaluator
    from segcore.evaluation.semantic import SemanticEvaluator
    from segcore.evaluation.tta import SemanticSegmentorWithTTA

__all__ = [
    "InstanceSegEvaluator",
    "PanopticEvaluator",
    "PanopticQuality",
    "PanopticapiEvaluator",
    "SemanticEvaluator",
    "SemanticSegmentorWithTTA",
    "build_evaluator",
    "check_evaluation",
    "register_evaluator",
    "require_expected_results",
    "require_ground_truth",
]

_MODULES = {
    "InstanceSegEvaluator": "instance",
    "PanopticEvaluator": "panoptic",
    "PanopticapiEvaluator": "panopticapi_evaluator",
    "SemanticEvaluator": "semantic",
    "SemanticSegmentorWithTTA": "tta",
    "build_evaluator": "build",
    "check_evaluation": "check",
    "register_evaluator": "build",
    "require_expected_results": "expected",
    "require_ground_truth": "build",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
