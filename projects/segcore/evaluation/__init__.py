"""Evaluators by data set, panoptic quality, test-time augmentation."""

from segcore.evaluation.build import build_evaluator, register_evaluator
from segcore.evaluation.check import check_evaluation
from segcore.evaluation.expected import require_expected_results
from segcore.evaluation.instance import InstanceSegEvaluator
from segcore.evaluation.panoptic import PanopticEvaluator
from segcore.evaluation.tta import SemanticSegmentorWithTTA

__all__ = [
    "InstanceSegEvaluator",
    "PanopticEvaluator",
    "SemanticSegmentorWithTTA",
    "build_evaluator",
    "check_evaluation",
    "register_evaluator",
    "require_expected_results",
]
