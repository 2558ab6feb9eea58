"""Published checkpoints into the network: names, differences to a pre-trained ViT, other sizes."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eomt.checkpoint_names import VIT, is_dinov3, is_of_transformers, is_official, to_ours
from eomt.network import EncoderOnlyMaskTransformer
from eomt.vit import TimmViT
from segcore.backbones.timm_models import convert_published
from segcore.checkpoint.files import local_file, read_checkpoint
from segcore.errors import CheckpointError
from segcore.text import printable

PREFIX = "transformer."
CRITERION = "criterion."
NORM = VIT + "norm.weight"
# Weights of a trained norm are of about 1; of differences, two orders of magnitude smaller.
LARGEST_DIFFERENCE = 0.1


def adapt_checkpoint(
    network: EncoderOnlyMaskTransformer,
    state: Mapping[str, Tensor],
    source: str,
    *,
    delta_base: str = "",
) -> Mapping[str, Tensor]:
    """Convert a state dict to names and sizes of the model.

    It may be of our model, an official one, one of Transformers, or a pre-trained ViT of timm, of
    Transformers (DINOv3) or of the authors of DINOv2 and DINOv3. Patch embedding and positions of
    another size are resampled.

    Args:
        network: the part of the model with the prefix "transformer."; it is not changed.
        source: the file, for messages.
        delta_base: file of the pre-trained ViT, for a DINOv3 file that holds differences to it.

    Raises:
        CheckpointError: the file holds differences, and there is no file of the pre-trained ViT,
            or that is of another ViT.
    """
    if any(name.startswith(PREFIX) for name in state):
        converted = state
    elif is_official(state) or any(name.endswith("query.weight") for name in state):
        ours = to_ours(state)
        if is_official(state) and is_dinov3(state):
            ours = _with_base(network.backbone, ours, source, delta_base)
        ours.setdefault("attn_mask_probs", torch.zeros_like(network.attn_mask_probs))
        converted = _with_prefix(ours)
    else:
        converted = _with_prefix(pretrained_vit(network.backbone, state)) or state
    return _resampled(network.backbone, converted)


def pretrained_vit(backbone: TimmViT, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a pre-trained ViT that the backbone has, with names of ours."""
    if is_of_transformers(state):
        ours = {name.removeprefix(VIT): tensor for name, tensor in to_ours(state).items()}
    else:
        ours = convert_published(backbone.vit, state)
    known = backbone.vit.state_dict().keys()
    return {VIT + name: tensor for name, tensor in ours.items() if name in known}


def _with_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name if name.startswith(CRITERION) else PREFIX + name: tensor
        for name, tensor in state.items()
    }


def _with_base(
    backbone: TimmViT, state: dict[str, Tensor], source: str, delta_base: str
) -> dict[str, Tensor]:
    """Add the pre-trained ViT to differences; leave a file that holds none as it is."""
    norm = state.get(NORM)
    if norm is None:
        return state
    if not delta_base:
        if norm.float().abs().mean() > LARGEST_DIFFERENCE:
            return state
        raise CheckpointError(
            f"{printable(source)}: the file holds the difference to a pre-trained DINOv3, as all "
            "published ones do. Download that ViT from its authors, or from Hugging Face, and give "
            "the file as MODEL.EOMT.DELTA_BASE"
        )
    base = pretrained_vit(backbone, read_checkpoint(local_file(delta_base))["model"])
    # Biases of queries and values are 0 where a file leaves them out.
    absent = {
        name
        for name in state
        if name.startswith(VIT) and name not in base and not name.endswith(("q_bias", "v_bias"))
    }
    other = {name for name in base if name in state and base[name].shape != state[name].shape}
    if absent or other:
        raise CheckpointError(
            f"MODEL.EOMT.DELTA_BASE {printable(delta_base)}: expected the pre-trained "
            f"{backbone.name}, {min(absent | other)} is missing or of another shape"
        )
    if norm.norm() > (norm - base[NORM]).norm():
        return state
    return {
        name: tensor + base[name].to(tensor) if name in base else tensor
        for name, tensor in state.items()
    }


def _resampled(backbone: TimmViT, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Resample the patch embedding and the positions of ``state`` where they are of another size.

    Positions are those of a square grid.
    """
    kernel, positions = (PREFIX + VIT + name for name in ("patch_embed.proj.weight", "pos_embed"))
    changed = {}
    if kernel in state and state[kernel].shape[-2:] != backbone.patch_size:
        changed[kernel] = resample_kernel(state[kernel], backbone.patch_size)
    expected = getattr(backbone.vit, "pos_embed", None)
    if positions in state and expected is not None and state[positions].shape != expected.shape:
        prefix = expected.shape[1] - math.prod(backbone.grid_size)
        changed[positions] = resample_positions(state[positions], backbone.grid_size, prefix)
    if not changed:
        return state
    result = type(state)(state)
    result.update(changed)
    return result


def resample_kernel(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a patch embedding (C, 3, p, p) to another patch size (FlexiViT, section 3.4)."""
    from timm.layers import resample_patch_embed

    return resample_patch_embed(kernel, list(size))


def resample_positions(positions: Tensor, grid: tuple[int, int], num_prefix: int) -> Tensor:
    """Resample positions (1, num_prefix + n * n, C) of a square grid to another grid, bicubic.

    Positions that are of no square grid stay as they are.
    """
    from timm.layers import resample_abs_pos_embed

    count = positions.shape[1] - num_prefix
    if count < 1 or math.isqrt(count) ** 2 != count:
        return positions
    side = math.isqrt(count)
    return resample_abs_pos_embed(positions, list(grid), [side, side], num_prefix)


def adapt_on_load(model: nn.Module) -> None:
    """Make ``model.load_state_dict`` take published checkpoints, too."""

    def adapt(module: nn.Module, state: dict[str, Tensor], prefix: str, *args) -> None:
        if not prefix:
            converted = dict(module.adapt_checkpoint(state, "state dict"))
            state.clear()
            state.update(converted)

    model.register_load_state_dict_pre_hook(adapt)
