"""Feature maps of any model of timm, for images of any size."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from segcore.backbones.features import FEATURES
from segcore.backbones.timm_models import (
    convert_published,
    create_timm_model,
    names_in_features,
    pixel_statistics,
)
from segcore.checkpoint.reading import reading
from segcore.errors import ConfigError

KEY = "MODEL.TIMM.NAME"
STRIDES = {4 * 2**i: name for i, name in enumerate(FEATURES)}  # stride -> feature
MAX_PIXEL_DIFFERENCE = 0.5  # of 255; published values are rounded in several ways

logger = logging.getLogger(__name__)


class InputSize(NamedTuple):
    """Sizes of images that a model takes.

    Attributes:
        multiple: (H, W), both sides are multiples of these.
        largest: (H, W), or None without limit.
    """

    multiple: tuple[int, int]
    largest: tuple[int, int] | None = None


class TimmFeatures(nn.Module):
    """Model of timm that gives feature maps of images of any size.

    Images are padded with zeros at the bottom and right to a size that the model takes, and the
    maps are cut to (ceil(H / stride), ceil(W / stride)). Models of one input size, such as Hiera,
    refuse larger images.

    Args:
        name: as in ``timm.list_models()``.
        indices: of the maps, among those of the model; by default the last of each stride of 4, 8,
            16 and 32. Other strides are left out.
        image_size: (H, W) that the model is built for; empty: its own.
        drop_path_rate: stochastic depth of the last block.
        norm: "FrozenBN" or "SyncBN" in the place of each batch norm; "" or "BN" keeps them.
        use_checkpoint: recompute activations in the backward pass, to save memory.
        arguments: further arguments of the model's constructor.

    Attributes:
        strides, channels: of each map.
        is_pyramid: the model has maps of several strides, among them those left out.

    Raises:
        ConfigError: there is no such model, it does not take an argument, or it gives no maps.
    """

    def __init__(
        self,
        name: str,
        *,
        indices: Sequence[int] = (),
        image_size: Sequence[int] = (),
        drop_path_rate: float = 0.0,
        norm: str = "",
        use_checkpoint: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.arguments = {
            **({"img_size": tuple(image_size)} if image_size else {}),
            **({"drop_path_rate": drop_path_rate} if drop_path_rate else {}),
            **(arguments or {}),
        }
        with torch.device("meta"):
            info = self._create_with_any_size().feature_info.info
            indices = _one_of_each_stride(name, info, indices)
            probe = self._create(out_indices=indices)
        self.is_pyramid = len({feature["reduction"] for feature in info}) > 1
        self.strides: list[int] = probe.feature_info.reduction()
        self.channels: list[int] = probe.feature_info.channels()
        published = tuple(image_size) or _published_size(name)
        self.input_size, self.channels_last = self._try_sizes(probe.eval(), published)

        self.model = self._create(out_indices=indices)
        if norm in ("FrozenBN", "SyncBN"):
            self.model = _with_norm(self.model, norm)
        if use_checkpoint:
            _recompute(name, self.model)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> maps (B, C, ceil(H / stride), ceil(W / stride)).

        Raises:
            ValueError: the images are larger than the model takes.
        """
        height, width = images.shape[-2:]
        largest = self.input_size.largest
        if largest and (height > largest[0] or width > largest[1]):
            raise ValueError(
                f"MODEL.TIMM.IMG_SIZE: {self.name} takes images of one size, at most {largest} "
                f"(height, width), got {(height, width)}: build it for larger ones, or bound "
                "INPUT.MAX_SIZE_TEST"
            )
        rows, columns = self.input_size.multiple
        below, right = -height % rows, -width % columns
        if below or right:
            images = F.pad(images, (0, right, 0, below))
        maps = self.model(images)
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        if below or right:
            maps = [
                x[..., : -(-height // stride), : -(-width // stride)]
                for x, stride in zip(maps, self.strides, strict=True)
            ]
        return maps

    def freezing_order(self) -> list[list[nn.Module | nn.Parameter]]:
        """Stem and stages, or blocks, as timm groups them; see ``segcore.engine.freezing``.

        Raises:
            ConfigError: timm does not tell the order of the model's layers.
        """
        from timm.models import group_parameters

        whole = self._whole_model()
        try:
            groups = group_parameters(whole, whole.group_matcher(coarse=True), reverse=True)
        except (AttributeError, AssertionError) as error:  # none, or no coarse ones
            raise ConfigError(
                f"MODEL.BACKBONE.FREEZE: expected 0, as timm does not tell the order of the layers "
                f"of {self.name}"
            ) from error
        names = names_in_features(groups, dict(self.model.named_parameters()))
        parts: dict[int, set[str]] = defaultdict(set)
        for name, ours in names.items():
            parts[groups[name]].add(ours)
        return [_modules_of(self.model, part) for _, part in sorted(parts.items())]

    def convert_published(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """Return the entries of a published file of the model, with our names where we have them.

        Raises:
            CheckpointError: timm cannot make weights of this model of the file.
        """
        with reading(source):
            converted = convert_published(self._whole_model(), state)
        ours = names_in_features(converted, self.model.state_dict())
        return {
            f"model.{ours[name]}" if name in ours else name: tensor
            for name, tensor in converted.items()
        }

    def _create(self, **options: Any) -> nn.Module:
        arguments = self.arguments | {"features_only": True} | options
        return create_timm_model(
            self.name, arguments, key=KEY, kind="a model of timm with feature maps"
        )

    def _create_with_any_size(self) -> nn.Module:
        """Build the model such that it takes any image size, if it has an argument for that."""
        try:
            model = self._create(dynamic_img_size=True, out_indices=[0])
        except ConfigError as error:
            if not isinstance(error.__cause__, TypeError):
                raise
            return self._create(out_indices=[0])
        self.arguments["dynamic_img_size"] = True
        return model

    def _whole_model(self) -> nn.Module:
        with torch.device("meta"):
            return create_timm_model(self.name, self.arguments, key=KEY)

    def _try_sizes(self, probe: nn.Module, size: tuple[int, int]) -> tuple[InputSize, bool]:
        """Find out what sizes the model takes, and whether its maps have their channels last.

        Args:
            probe: the model, on the meta device, where nothing is computed.
            size: (H, W) that it is built for.
        """
        stride = max(self.strides)
        fault = ""
        for tried, accepted in (
            ((5 * stride, 7 * stride), InputSize((stride, stride))),
            ((2 * size[0], 3 * size[1]), InputSize(size)),  # windows of a fixed share of the size
            (size, InputSize(size, largest=size)),
        ):
            try:
                with torch.no_grad():
                    maps = probe(torch.empty(1, 3, *tried, device="meta"))
            except Exception as error:  # of any kind, from any layer
                fault = str(error).splitlines()[0] if str(error) else type(error).__name__
                continue
            shapes = [tuple(x.shape[1:]) for x in maps]
            for channels_last in (False, True):
                if shapes == list(self._expected_shapes(tried, channels_last)):
                    return accepted, channels_last
            fault = f"maps of shapes {shapes} for an image {tried}"
        raise ConfigError(
            f"{KEY}: expected a model of timm with maps of strides {self.strides}, got "
            f"{self.name!r}, which fails: {fault}"
        )

    def _expected_shapes(
        self, size: tuple[int, int], channels_last: bool
    ) -> Iterator[tuple[int, ...]]:
        for stride, channels in zip(self.strides, self.channels, strict=True):
            rows, columns = size[0] // stride, size[1] // stride
            yield (rows, columns, channels) if channels_last else (channels, rows, columns)


@BACKBONE_REGISTRY.register()
class TimmBackbone(Backbone):
    """Maps of a model of timm as "res2" to "res5", by their strides of 4 to 32.

    Args:
        features: the model.

    Raises:
        ConfigError: all maps have one stride, as those of a plain ViT.
    """

    @configurable
    def __init__(self, *, features: TimmFeatures) -> None:
        super().__init__()
        if not features.is_pyramid:
            raise ConfigError(
                f"{KEY}: expected a model with maps of several strides, got {features.name!r}, "
                f"whose maps have stride {features.strides[0]}: MODEL.BACKBONE.NAME TimmViTPyramid "
                "makes a pyramid of those of a plain ViT"
            )
        self.timm = features
        self._out_features = [STRIDES[stride] for stride in features.strides]
        self._out_feature_strides = dict(zip(self._out_features, features.strides, strict=True))
        self._out_feature_channels = dict(zip(self._out_features, features.channels, strict=True))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        return {"features": build_timm_features(cfg, indices=cfg.MODEL.TIMM.OUT_INDICES)}

    accepts_any_size = True  # see segcore.backbones.features.required_divisor

    @property
    def size_divisibility(self) -> int:
        """Multiple that batches are padded to; any size is accepted."""
        return max(self.timm.strides)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Image batch (B, 3, H, W) -> feature name: (B, C, ceil(H/stride), ceil(W/stride))."""
        return dict(zip(self._out_features, self.timm(images), strict=True))

    def convert_published(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """Return the entries of a file of timm with names of ours."""
        return with_prefix("timm.", self.timm, state, source)


def with_prefix(
    prefix: str, features: TimmFeatures, state: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Convert a file of timm to names of a module that has ``features`` under a prefix."""
    known = features.state_dict().keys()
    return {
        prefix + name if name in known else name: tensor
        for name, tensor in features.convert_published(state, source).items()
    }


def build_timm_features(
    cfg: CfgNode, *, indices: Sequence[int], arguments: Mapping[str, Any] | None = None
) -> TimmFeatures:
    """Build the model of ``MODEL.TIMM``; warn of pixels that it was not trained with.

    Args:
        indices: of the maps.
        arguments: of the constructor, beside those of the config.
    """
    timm = cfg.MODEL.TIMM
    features = TimmFeatures(
        timm.NAME,
        indices=indices,
        image_size=timm.IMG_SIZE,
        drop_path_rate=timm.DROP_PATH_RATE,
        norm=timm.NORM,
        use_checkpoint=timm.USE_CHECKPOINT,
        arguments={**(arguments or {}), **dict(timm.ARGUMENTS)},
    )
    warn_of_pixels(cfg)
    return features


def warn_of_pixels(cfg: CfgNode) -> None:
    """Warn, with the values to set, if images are normalized otherwise than the model expects."""
    mean, std = pixel_statistics(cfg.MODEL.TIMM.NAME)
    given = (*cfg.MODEL.PIXEL_MEAN, *cfg.MODEL.PIXEL_STD)
    differences = (abs(a - b) for a, b in zip(given, (*mean, *std), strict=True))
    if max(differences) > MAX_PIXEL_DIFFERENCE or cfg.INPUT.FORMAT != "RGB":
        logger.warning(
            "%s %r was trained on other pixels than this config gives. For its pre-trained weights "
            "set INPUT.FORMAT: RGB, MODEL.PIXEL_MEAN: %s, MODEL.PIXEL_STD: %s",
            KEY,
            cfg.MODEL.TIMM.NAME,
            mean,
            std,
        )


def _published_size(name: str) -> tuple[int, int]:
    import timm

    return tuple(timm.get_pretrained_cfg(name.removeprefix("timm/")).input_size[1:])


def _one_of_each_stride(name: str, maps: list[dict], indices: Sequence[int]) -> list[int]:
    """Choose the last map of each stride that has a name, of those in ``indices``, if given."""
    outside = [index for index in indices if not -len(maps) <= index < len(maps)]
    if outside:
        raise ConfigError(
            f"MODEL.TIMM.OUT_INDICES: expected indices of the {len(maps)} maps of {name}, got "
            f"{outside}"
        )
    wanted = sorted(index % len(maps) for index in indices) or range(len(maps))
    strides = {maps[index]["reduction"]: index for index in wanted}
    chosen = [index for stride, index in sorted(strides.items()) if stride in STRIDES]
    if not chosen:
        hint = ", which MODEL.TIMM.PATCH_SIZE changes" if len(strides) == 1 else ""
        raise ConfigError(
            f"{KEY}: expected a model with maps of strides among {list(STRIDES)}, got {name!r} "
            f"with {sorted(strides)}{hint}"
        )
    return chosen


def _modules_of(model: nn.Module, names: Collection[str]) -> list[nn.Module | nn.Parameter]:
    """Return the largest modules with parameters of these names alone, and the parameters left."""
    rest = {name: parameter for name, parameter in model.named_parameters() if name in names}
    modules = []
    for path, module in model.named_modules():
        inside = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
        if inside and rest.keys() >= set(inside):
            modules.append(module)
            for name in inside:
                del rest[name]
    return [*modules, *rest.values()]


def _with_norm(model: nn.Module, norm: str) -> nn.Module:
    from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

    return freeze_batch_norm_2d(model) if norm == "FrozenBN" else convert_sync_batchnorm(model)


def _recompute(name: str, model: nn.Module) -> None:
    model = getattr(model, "model", model)
    if not hasattr(model, "set_grad_checkpointing"):
        raise ConfigError(
            f"MODEL.TIMM.USE_CHECKPOINT: expected False, as {name} cannot recompute activations"
        )
    model.set_grad_checkpointing(True)
