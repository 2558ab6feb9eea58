"""Names of official checkpoints and the rules that rename their entries."""

import re
from collections.abc import Callable, Iterable

from segcore.checkpoint.convert import resnet_name

# Applied one after the other. Each names its whole beginning, so that no name of ours fits.
Rule = tuple[str, str | Callable[[re.Match], str]]

# Official names have changed once; the official code renames in this way when it loads.
_OLDER: list[Rule] = [
    (r"^module\.", ""),
    (r"^bbox_head\.mask_head\.", "bbox_head.things_mask_head."),
    (r"^bbox_head\.mask_head2\.", "bbox_head.stuff_mask_head."),
    (r"^bbox_head\.cls_branches2\.", "bbox_head.cls_thing_branches."),
]

# What mask decoders say about classes and boxes of things goes nowhere; counts of batches neither.
_DEAD = re.compile(
    r"^bbox_head\.(cls_thing_branches|reg_branches2)\."
    r"|^backbone\.(bn1|layer\d)\..*num_batches_tracked$"
)

_PARTS: list[Rule] = [
    (r"^backbone\.((?:conv1|bn1|layer\d)\..*)", lambda match: f"backbone.{resnet_name(match[1])}"),
    (r"^neck\.convs\.(\d)\.conv\.", r"neck.lateral.\1."),
    (r"^neck\.convs\.(\d)\.gn\.", r"neck.lateral.\1.norm."),
    (r"^neck\.extra_convs\.(\d)\.conv\.", r"neck.extra.\1."),
    (r"^neck\.extra_convs\.(\d)\.gn\.", r"neck.extra.\1.norm."),
    (r"^bbox_head\.transformer\.level_embeds$", "encoder.level_embed"),
    (r"^bbox_head\.transformer\.encoder\.", "encoder."),
    (r"^bbox_head\.transformer\.decoder\.", "location_decoder."),
    (r"^bbox_head\.transformer\.reference_points\.", "location_decoder.reference_points."),
    (r"^bbox_head\.query_embedding\.", "location_decoder.query_embed."),
    (r"^bbox_head\.cls_branches\.", "location_decoder.class_embed."),
    (
        # Every other module is a ReLU.
        r"^bbox_head\.reg_branches\.(\d+)\.(\d+)\.",
        lambda match: f"location_decoder.bbox_embed.{match[1]}.layers.{int(match[2]) // 2}.",
    ),
    (r"^bbox_head\.things_mask_head\.", "thing_mask_decoder."),
    (r"^bbox_head\.stuff_mask_head\.", "stuff_mask_decoder."),
    (r"^bbox_head\.stuff_query\.", "stuff_query_embed."),
    (r"^bbox_head\.cls_stuff_branches\.", "stuff_class_embed."),
]

_LAYER = r"^((?:encoder|location_decoder)\.layers\.\d+)"
_LAYERS: list[Rule] = [
    (r"^(encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"^(location_decoder\.layers\.\d+)\.attentions\.0\.attn\.", r"\1.self_attn."),
    (r"^(location_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.cross_attn."),
    (_LAYER + r"\.norms\.(\d)\.", lambda match: f"{match[1]}.norm{int(match[2]) + 1}."),
    (_LAYER + r"\.ffns\.0\.layers\.0\.0\.", r"\1.linear1."),
    (_LAYER + r"\.ffns\.0\.layers\.1\.", r"\1.linear2."),
]

_BLOCK = r"^((?:thing|stuff)_mask_decoder\.layers\.\d+)"
_MASK = r"^((?:thing|stuff)_mask_decoder\.(?:layers\.\d+\.cross_attn|tail))"
_MASK_DECODERS: list[Rule] = [
    (r"^((?:thing|stuff)_mask_decoder)\.blocks\.", r"\1.layers."),
    (r"^((?:thing|stuff)_mask_decoder)\.attnen\.", r"\1.tail."),
    (_BLOCK + r"\.attn\.", r"\1.cross_attn."),
    (_BLOCK + r"\.self_attention\.", r"\1.self_attn."),
    (_BLOCK + r"\.head_norm(\d)\.", r"\1.norm\2."),
    (_BLOCK + r"\.norm3\.", r"\1.norm0."),
    (_MASK + r"\.linear_l(\d)\.0\.", lambda match: f"{match[1]}.mask_level.{int(match[2]) - 1}."),
    (_MASK + r"\.linear\.0\.", r"\1.mask_fuse."),
]


def rename_official(names: Iterable[str]) -> dict[str, str | None]:
    """Official name, old or new -> our name, of those state-dict ``names`` that differ.

    PVT v2 and Swin backbones keep their names. None: the entry influences no result.
    """
    renamed = ((name, _our_name(name)) for name in names)
    return {old: new for old, new in renamed if old != new}


def _our_name(name: str) -> str | None:
    name = _apply(_OLDER, name)
    if _DEAD.match(name):
        return None
    return _apply(_PARTS + _LAYERS + _MASK_DECODERS, name)


def _apply(rules: Iterable[Rule], name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
