"""Names of Mask2Former in the Transformers library, and how its entries become ours and back.

Theirs are the names that its files have, which are those of its modules in version 4; version 5
renames them when it reads and writes. The names of its modules in version 5 are read, too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from segcore.checkpoint.names import QKV, join_projections
from segcore.errors import CheckpointError

ENCODER = "model.pixel_level_module.encoder."
DECODER = "model.pixel_level_module.decoder."
QUERIES = "model.transformer_module."
LAYER = f"{QUERIES}decoder.layers.#."
SWIN_BLOCK = f"{ENCODER}encoder.layers.#.blocks.#."
HEAD = "sem_seg_head."
PIXELS = f"{HEAD}pixel_decoder."
PREDICTOR = f"{HEAD}predictor."

# The beginning of our names, and of theirs: one, or three whose rows ours has one after the other.
# "#" is a number, the same on both sides.
Row = tuple[str, ...]

_SWIN: list[Row] = [
    ("backbone.patch_embed.proj.", f"{ENCODER}embeddings.patch_embeddings.projection."),
    ("backbone.patch_embed.norm.", f"{ENCODER}embeddings.norm."),
    ("backbone.layers.#.downsample.", f"{ENCODER}encoder.layers.#.downsample."),
    ("backbone.layers.#.blocks.#.norm1.", f"{SWIN_BLOCK}layernorm_before."),
    ("backbone.layers.#.blocks.#.norm2.", f"{SWIN_BLOCK}layernorm_after."),
    ("backbone.layers.#.blocks.#.mlp.fc1.", f"{SWIN_BLOCK}intermediate.dense."),
    ("backbone.layers.#.blocks.#.mlp.fc2.", f"{SWIN_BLOCK}output.dense."),
    (
        "backbone.layers.#.blocks.#.attn.relative_position_bias_table",
        f"{SWIN_BLOCK}attention.self.relative_position_bias_table",
    ),
    (
        "backbone.layers.#.blocks.#.attn.qkv.",
        *(f"{SWIN_BLOCK}attention.self.{part}." for part in ("query", "key", "value")),
    ),
    ("backbone.layers.#.blocks.#.attn.proj.", f"{SWIN_BLOCK}attention.output.dense."),
    *(
        (f"backbone.norm{stage}.", f"{ENCODER}hidden_states_norms.stage{stage + 1}.")
        for stage in range(4)
    ),
]
# Layers of ResNet, each a convolution and its norm.
_CONVOLUTIONS: list[Row] = [
    ("backbone.stem.conv1.", f"{ENCODER}embedder.embedder."),
    *(
        (
            f"backbone.res{stage + 2}.#.{ours}.",
            f"{ENCODER}encoder.stages.{stage}.layers.#.{theirs}.",
        )
        for stage in range(4)
        for ours, theirs in [
            ("shortcut", "shortcut"),
            *((f"conv{index + 1}", f"layer.{index}") for index in range(3)),
        ]
    ),
]
_RESNET: list[Row] = [
    (ours + our_part, theirs + their_part)
    for ours, theirs in _CONVOLUTIONS
    for our_part, their_part in (("weight", "convolution.weight"), ("norm.", "normalization."))
]
_PIXEL_DECODER: list[Row] = [
    (f"{PIXELS}transformer.level_embed", f"{DECODER}level_embed"),
    (f"{PIXELS}input_proj.", f"{DECODER}input_projections."),
    *(
        (f"{PIXELS}transformer.encoder.layers.#.{ours}.", f"{DECODER}encoder.layers.#.{theirs}.")
        for ours, theirs in [
            ("self_attn", "self_attn"),
            ("norm1", "self_attn_layer_norm"),
            ("linear1", "fc1"),
            ("linear2", "fc2"),
            ("norm2", "final_layer_norm"),
        ]
    ),
    (f"{PIXELS}adapter_1.weight", f"{DECODER}adapter_1.0.weight"),
    (f"{PIXELS}adapter_1.norm.", f"{DECODER}adapter_1.1."),
    (f"{PIXELS}layer_1.weight", f"{DECODER}layer_1.0.weight"),
    (f"{PIXELS}layer_1.norm.", f"{DECODER}layer_1.1."),
    (f"{PIXELS}mask_features.", f"{DECODER}mask_projection."),
]
_TRANSFORMER_DECODER: list[Row] = [
    (f"{PREDICTOR}query_feat.", f"{QUERIES}queries_features."),
    (f"{PREDICTOR}query_embed.", f"{QUERIES}queries_embedder."),
    (f"{PREDICTOR}level_embed.", f"{QUERIES}level_embed."),
    (f"{PREDICTOR}input_proj.", f"{QUERIES}input_projections."),
    (f"{PREDICTOR}transformer_cross_attention_layers.#.multihead_attn.", f"{LAYER}cross_attn."),
    (f"{PREDICTOR}transformer_cross_attention_layers.#.norm.", f"{LAYER}cross_attn_layer_norm."),
    (
        f"{PREDICTOR}transformer_self_attention_layers.#.self_attn.in_proj_",
        *(f"{LAYER}self_attn.{part}_proj." for part in "qkv"),
    ),
    (
        f"{PREDICTOR}transformer_self_attention_layers.#.self_attn.out_proj.",
        f"{LAYER}self_attn.out_proj.",
    ),
    (f"{PREDICTOR}transformer_self_attention_layers.#.norm.", f"{LAYER}self_attn_layer_norm."),
    (f"{PREDICTOR}transformer_ffn_layers.#.linear1.", f"{LAYER}fc1."),
    (f"{PREDICTOR}transformer_ffn_layers.#.linear2.", f"{LAYER}fc2."),
    (f"{PREDICTOR}transformer_ffn_layers.#.norm.", f"{LAYER}final_layer_norm."),
    (f"{PREDICTOR}decoder_norm.", f"{QUERIES}decoder.layernorm."),
    (f"{PREDICTOR}mask_embed.layers.#.", f"{QUERIES}decoder.mask_predictor.mask_embedder.#.0."),
    (f"{PREDICTOR}class_embed.", "class_predictor."),
    ("criterion.", "criterion."),
]
ROWS = [*_SWIN, *_RESNET, *_PIXEL_DECODER, *_TRANSFORMER_DECODER]

# From names of the modules of version 5 to those of its files.
_OF_VERSION_5 = [
    (r"\.encoder\.swin\.", ".encoder."),
    (r"\.attention\.q_proj\.", ".attention.self.query."),
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.attention\.relative_position_bias\.", ".attention.self."),
    (r"(\.blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(\.blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
]
# Entries that follow from the configuration, or that neither side computes with.
_UNUSED = re.compile(
    r"relative_position_index$|num_batches_tracked$|pixel_level_module\.encoder\.layernorm\."
)


class _Rule(NamedTuple):
    """Replacement of the beginning of a name; ``part`` is one of QKV where ours has all three."""

    pattern: re.Pattern[str]
    template: str
    part: str


def _rule(beginning: str, template: str, part: str) -> _Rule:
    return _Rule(re.compile(re.escape(beginning).replace(r"\#", r"(\d+)")), template, part)


def _parts(row: Row) -> str | list[str]:
    return QKV if len(row) > 2 else [""]


_FROM_THEIRS = [
    _rule(theirs, row[0], part)
    for row in ROWS
    for theirs, part in zip(row[1:], _parts(row), strict=True)
]
_FROM_OURS = [
    _rule(row[0], theirs, part)
    for row in ROWS
    for theirs, part in zip(row[1:], _parts(row), strict=True)
]


def is_of_transformers(names: Iterable[str]) -> bool:
    """Return whether these are names of a Mask2Former of Transformers."""
    return any(name.startswith((ENCODER, DECODER)) for name in names)


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of Transformers; names that are not known stay.

    Raises:
        CheckpointError: of a fused projection, some parts are missing.
    """
    return join_projections(_entries(state))


def _entries(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the name in our model, the part of a fused projection or "", and the tensor."""
    for name, tensor in state.items():
        for pattern, replacement in _OF_VERSION_5:
            name = re.sub(pattern, replacement, name)
        if not _UNUSED.search(name):
            yield *next(_translations(name, _FROM_THEIRS), (name, "")), tensor


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of ours to the names of Transformers' files.

    Raises:
        CheckpointError: an entry has no place in their model.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _UNUSED.search(name):
            continue
        theirs = [translated for translated, _ in _translations(name, _FROM_OURS)]
        if not theirs:
            raise CheckpointError(
                f"{name}: expected an entry of a Mask2Former of Transformers, with a Swin or "
                "ResNet backbone; it has none such"
            )
        converted |= zip(theirs, tensor.chunk(len(theirs)), strict=True)
    return converted


def _translations(name: str, rules: Iterable[_Rule]) -> Iterator[tuple[str, str]]:
    """Yield the names that rules give an entry, each with its part of a fused projection."""
    for rule in rules:
        if match := rule.pattern.match(name):
            beginning = rule.template.replace("#", "{}").format(*match.groups())
            yield beginning + name[match.end() :], rule.part
