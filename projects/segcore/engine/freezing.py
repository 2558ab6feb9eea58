"""Backbones whose leading stages are not trained (``MODEL.BACKBONE.FREEZE``)."""

from collections.abc import Sequence

from detectron2.engine import HookBase
from detectron2.modeling.backbone import FPN, ResNet
from torch import nn

from segcore.errors import ConfigError


def freeze_stages(model: nn.Module, count: int) -> list[nn.Module]:
    """Take the first ``count`` parts of the model's backbone out of the training.

    The parts are the stem and the stages of Detectron2's ResNet, or what the backbone, a module of
    the model, returns as ``freezing_order()``: a list of parts, each a list of modules and
    parameters.

    Returns:
        The modules, which should stay in evaluation mode (:class:`EvaluationMode`): no dropout, and
        the statistics of norms as they are.

    Raises:
        ConfigError: there are fewer parts, or the model has no such backbone.
    """
    if not count:
        return []
    order = next(filter(None, map(_freezing_order, model.modules())), None)
    if order is None:
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE: expected 0, as {type(model).__name__} has no backbone whose "
            f"parts are known, got {count}"
        )
    if count > len(order):
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE: expected at most {len(order)}, the number of parts of the "
            f"backbone (stem and stages), got {count}"
        )
    frozen = [item for part in order[:count] for item in part]
    for item in frozen:
        item.requires_grad_(False)
    return [item for item in frozen if isinstance(item, nn.Module)]


def _freezing_order(module: nn.Module) -> Sequence[Sequence[nn.Module | nn.Parameter]] | None:
    if isinstance(module, FPN):
        return _freezing_order(module.bottom_up)
    if isinstance(module, ResNet):
        return [[module.stem], *([stage] for stage in module.stages)]
    return module.freezing_order() if hasattr(module, "freezing_order") else None


class EvaluationMode(HookBase):
    """Keep modules in evaluation mode while the rest of the model trains."""

    def __init__(self, modules: Sequence[nn.Module]):
        self.modules = modules

    def before_step(self) -> None:
        for module in self.modules:
            module.eval()
