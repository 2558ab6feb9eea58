"""Assignment of predictions to targets."""

from segcore.matching.hungarian import (
    Assignment,
    HungarianMatcher,
    NonFiniteCostError,
    assign,
)

__all__ = ["Assignment", "HungarianMatcher", "NonFiniteCostError", "assign"]
