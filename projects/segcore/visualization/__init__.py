"""Results as pictures and tables."""

from segcore.visualization.attention import draw_attention
from segcore.visualization.classes import categories_of
from segcore.visualization.focus import draw_focus
from segcore.visualization.overlay import draw_instances, draw_panoptic, draw_semantic
from segcore.visualization.segment_map import SegmentMap, strips
from segcore.visualization.sheet import sheet
from segcore.visualization.table import (
    Row,
    format_rows,
    instance_rows,
    panoptic_rows,
    semantic_rows,
)

__all__ = [
    "Row",
    "SegmentMap",
    "categories_of",
    "draw_attention",
    "draw_focus",
    "draw_instances",
    "draw_panoptic",
    "draw_semantic",
    "format_rows",
    "instance_rows",
    "panoptic_rows",
    "semantic_rows",
    "sheet",
    "strips",
]
