"""Models of timm by name, with errors that name the config key, and their published weights."""

import inspect
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from segcore.errors import ConfigError
from segcore.requirements import require_timm
from segcore.text import printable


def create_timm_model(
    name: str, arguments: Mapping[str, Any], *, key: str, kind: str = "a model of timm"
) -> nn.Module:
    """Build a model of timm with random weights and without classifier.

    Args:
        name: as in ``timm.list_models()``, with or without the tag of its weights.
        arguments: of ``timm.create_model``.
        key: config key that holds the name, for messages.
        kind: the models that may stand there, for messages.

    Raises:
        ConfigError: there is no such model, or it does not take the arguments.
    """
    require_timm()
    import timm

    if not timm.is_model(name.removeprefix("timm/")):
        closest = timm.list_models(f"*{name.split('.')[0]}*")[:3]
        hint = f"; did you mean {', '.join(closest)}?" if closest else ""
        raise ConfigError(f"{key}: expected a model of timm, got {printable(name)!r}{hint}")
    try:
        return timm.create_model(name, num_classes=0, **arguments)
    except Exception as error:  # each of the hundreds of constructors fails in its own way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{key}: expected {kind}, got {name!r}, which cannot be built with "
            f"{dict(arguments)}: {reason}"
        ) from error


def convert_published(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published weights with the names and sizes of ``model``, as timm does on loading.

    timm knows the files of the authors of its models, and resamples positions.

    Args:
        model: of timm, whole; it may be on the meta device.
    """
    module = sys.modules[type(model).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if convert is None:
        return dict(state)
    takes_model = len(inspect.signature(convert).parameters) > 1
    return convert(dict(state), model) if takes_model else convert(dict(state))


def names_in_features(names: Iterable[str], features: Iterable[str]) -> dict[str, str]:
    """Map names of parameters of a model of timm to those in its form with ``features_only``.

    That form flattens the first container, or is a module around the whole model.

    Args:
        names: in the whole model.
        features: all names of the other form; what it leaves out is not in the result.
    """
    features = set(features)
    return {
        name: found
        for name in names
        for found in (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}")
        if found in features
    }


def pixel_statistics(name: str) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of R, G and B, in [0, 255], that a model expects."""
    require_timm()
    import timm

    published = timm.get_pretrained_cfg(name.removeprefix("timm/"))
    mean, std = (
        [round(255 * value, 3) for value in row] for row in (published.mean, published.std)
    )
    return mean, std
