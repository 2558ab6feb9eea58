"""Assignment of predictions to targets."""

from segcore.matching.assignment import (
    Assignment,
    NonFiniteCostError,
    assign,
    assign_by_parts,
)
from segcore.matching.costs import focal_class_cost
from segcore.matching.hungarian import HungarianMatcher

__all__ = [
    "Assignment",
    "HungarianMatcher",
    "NonFiniteCostError",
    "assign",
    "assign_by_parts",
    "focal_class_cost",
]
