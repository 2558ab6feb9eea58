"""Names of published checkpoints of EoMT, and how their entries become ours.

Four layouts: the official files with a ViT of timm (DINOv2) or of Transformers (DINOv3), and the
files of Transformers' ``EomtForUniversalSegmentation`` and ``EomtDinov3ForUniversalSegmentation``.
Names of ours are those of :class:`EncoderOnlyMaskTransformer`, the prefix of the model left out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from segcore.checkpoint.names import QKV, join_projections

VIT = "backbone.vit."
OFFICIAL = "network."
OFFICIAL_VIT = "network.encoder.backbone."

Rules = list[tuple[str, str]]

# Entries of all layouts that no model needs: the pixels' statistics are configuration.
_UNUSED = re.compile(r"encoder\.pixel_(mean|std)$|embeddings\.mask_token$|rope_embeddings\.")

_HEAD_OF_TRANSFORMERS: Rules = [
    (r"^query\.weight$", "q.weight"),
    (r"^class_predictor\.", "class_head."),
    (r"^mask_head\.fc1\.", "mask_head.0."),
    (r"^mask_head\.fc2\.", "mask_head.2."),
    (r"^mask_head\.fc3\.", "mask_head.4."),
    (r"^upscale_block\.block\.(\d+)\.layernorm2d\.", r"upscale.\1.norm."),
    (r"^upscale_block\.block\.(\d+)\.", r"upscale.\1."),
]
# Rules for the ViT; names begin after its prefix. A part "q/" marks rows of a fused projection.
_DINOV2_OF_TRANSFORMERS: Rules = [
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings\.weight$", "pos_embed"),
    (r"^layers\.(\d+)\.attention\.([qkv])_proj\.(weight|bias)$", r"\2/blocks.\1.attn.qkv.\3"),
    (r"^layers\.(\d+)\.attention\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^layers\.(\d+)\.layer_scale(\d)\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^layers\.(\d+)\.mlp\.weights_in\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.mlp\.weights_out\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.", "blocks."),
    (r"^layernorm\.", "norm."),
]
_DINOV3: Rules = [
    (r"^(?:embeddings|patch_embed)\.cls_token$", "cls_token"),
    (r"^(?:embeddings|patch_embed)\.register_tokens$", "reg_token"),
    (r"^(?:embeddings|patch_embed)\.patch_embeddings\.", "patch_embed.proj."),
    (r"^(?:model\.layer|layers?)\.(\d+)\.", r"blocks.\1."),
    (r"^blocks\.(\d+)\.attention\.([qkv])_proj\.weight$", r"\2/blocks.\1.attn.qkv.weight"),
    (r"^blocks\.(\d+)\.attention\.([qv])_proj\.bias$", r"blocks.\1.attn.\2_bias"),
    (r"^blocks\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
    (r"^blocks\.(\d+)\.layer_scale(\d)\.lambda1$", r"blocks.\1.gamma_\2"),
    (r"^blocks\.(\d+)\.mlp\.up_proj\.", r"blocks.\1.mlp.fc1."),
    (r"^blocks\.(\d+)\.mlp\.down_proj\.", r"blocks.\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
]
# From ours to the official names of DINOv3, in the order of the rows.
_TO_DINOV3: list[tuple[str, tuple[str, ...]]] = [
    (r"^(cls_token)$", (r"patch_embed.\1",)),
    (r"^reg_token$", ("patch_embed.register_tokens",)),
    (r"^patch_embed\.proj\.", ("patch_embed.patch_embeddings.",)),
    (
        r"^(blocks\.\d+)\.attn\.qkv\.weight$",
        tuple(rf"\1.attention.{part}_proj.weight" for part in QKV),
    ),
    (r"^(blocks\.\d+)\.attn\.([qv])_bias$", (r"\1.attention.\2_proj.bias",)),
    (r"^(blocks\.\d+)\.attn\.proj\.", (r"\1.attention.o_proj.",)),
    (r"^(blocks\.\d+)\.gamma_(\d)$", (r"\1.layer_scale\2.lambda1",)),
    (r"^(blocks\.\d+)\.mlp\.fc1\.", (r"\1.mlp.up_proj.",)),
    (r"^(blocks\.\d+)\.mlp\.fc2\.", (r"\1.mlp.down_proj.",)),
]


def is_official(names: Iterable[str]) -> bool:
    """Return whether these are names of an official file of EoMT."""
    return any(name.startswith(OFFICIAL) for name in names)


def is_of_transformers(names: Iterable[str]) -> bool:
    """Return whether these are names of an EoMT, or a DINOv3 backbone, of Transformers."""
    return any("embeddings.cls_token" in name for name in names)


def is_dinov3(names: Iterable[str]) -> bool:
    """Return whether these are names of a DINOv3 in the layout of Transformers."""
    return any(name.endswith("attention.o_proj.weight") for name in names)


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a checkpoint of a published layout to names of ours, without unused entries.

    Raises:
        CheckpointError: of a fused projection, some parts are missing.
    """
    return join_projections(_entries(state))


def _entries(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the name in our model, the part of a fused projection or "", and the tensor."""
    rules, official = _rules(state), is_official(state)
    for name, tensor in state.items():
        if _UNUSED.search(name):
            continue
        ours = _official_name(name, rules) if official else _transformers_name(name, rules)
        part, _, ours = ours.rpartition("/")
        if ours.endswith("pos_embed") and tensor.dim() == 2:
            tensor = tensor.unsqueeze(0)
        yield ours, part, tensor


def to_official(name: str, *, dinov3: bool = False) -> tuple[str, ...]:
    """Return the official names of an entry of ours; three where a projection is fused.

    Args:
        dinov3: the official ViT is that of Transformers.
    """
    if name.startswith("criterion."):
        return (name,)
    if not name.startswith(VIT):
        return (OFFICIAL + name,)
    name = name.removeprefix(VIT)
    if dinov3:
        for pattern, replacements in _TO_DINOV3:
            if re.match(pattern, name):
                return tuple(OFFICIAL_VIT + re.sub(pattern, r, name) for r in replacements)
    return (OFFICIAL_VIT + name,)


def _rules(names: Iterable[str]) -> Rules:
    if is_dinov3(names):
        return _DINOV3
    return [] if is_official(names) else _DINOV2_OF_TRANSFORMERS


def _official_name(name: str, rules: Rules) -> str:
    name = name.replace("._orig_mod", "")
    if name.startswith(OFFICIAL_VIT):
        return _vit_name(name.removeprefix(OFFICIAL_VIT), rules)
    return name.removeprefix(OFFICIAL)


def _transformers_name(name: str, rules: Rules) -> str:
    # Early files have the encoder in a module of its own.
    bare = re.sub(r"^(model\.)?(encoder\.)?", "", name)
    head = _apply(_HEAD_OF_TRANSFORMERS, bare)
    if head != bare or bare == "attn_mask_probs" or bare.startswith("criterion."):
        return head
    return _vit_name(bare, rules)


def _vit_name(name: str, rules: Rules) -> str:
    part, fused, name = _apply(rules, name).rpartition("/")
    return part + fused + VIT + name


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
