"""Published AutoFocusFormer classifiers as backbones of segmentation models."""

from typing import Any

from segcore.checkpoint.convert import State, backbone_of, register_backbone, require_entry


@register_backbone("autofocusformer")
def from_autofocusformer(state: State) -> dict[str, Any]:
    """The backbone of an AutoFocusFormer classifier, published or trained here, under its names in
    a segmentation model. The classifier's last norm and head stay behind: the backbone has norms of
    its own, and a match by the ends of names could put the classifier's elsewhere.

    Raises:
        CheckpointError: no name is that of an AutoFocusFormer.
    """
    require_entry(state, "layers.0.blocks.0.attn.blank_k", "an AutoFocusFormer classifier")
    return backbone_of(state, other_parts=("norm", "head"))
