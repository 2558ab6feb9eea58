"""Evaluators by data set, panoptic quality, test-time augmentation."""

from segcore.evaluation.build import build_evaluator, check_evaluation, register_evaluator
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
]
