"""Results as pictures and tables."""

from segcore.visualization.attention import draw_attention
from segcore.visualization.classes import categories_of
from segcore.visualization.focus import draw_focus
from segcore.visualization.overlay import draw_instances, draw_panoptic, draw_semantic
from segcore.visualization.segment_map import extents, index_map, strips
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
    "categories_of",
    "draw_attention",
    "draw_focus",
    "draw_instances",
    "draw_panoptic",
    "draw_semantic",
    "extents",
    "format_rows",
    "index_map",
    "instance_rows",
    "panoptic_rows",
    "semantic_rows",
    "sheet",
    "strips",
]
