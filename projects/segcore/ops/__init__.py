"""Operators: a typed public function each, with a compiled kernel and a twin in plain PyTorch.

Needs PyTorch and nothing else.
"""

from .ms_deform_attn import ms_deform_attn, ms_deform_attn_reference

__all__ = ["ms_deform_attn", "ms_deform_attn_reference"]
