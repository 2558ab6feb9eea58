"""``torch.export`` of a model, for images of one size or of every size."""

import json
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from segcore.errors import ConfigError
from segcore.export.model import ExportedModel


@torch.no_grad()
def export_program(
    model: ExportedModel, size: tuple[int, int], *, batch: int = 1, dynamic: bool = False
) -> ExportedProgram:
    """Export a model.

    Args:
        size: (height, width) of the images; with ``dynamic`` of the example.
        batch: number of images.
        dynamic: take images of every size.

    Raises:
        ConfigError: the size does not fit the model, or the model cannot be exported; says why.
    """
    divisor = model.divisor
    if min(size) < 1 or any(side % divisor for side in size):
        raise ConfigError(
            f"size: expected height and width that are positive multiples of {divisor}, got "
            f"{size[0]}x{size[1]}"
        )
    # A side that is padded to one cell of the coarsest map would be another graph.
    least = 1 if divisor > 1 else model.model.size_divisibility + 1
    rows, columns = (divisor * Dim(name, min=least) for name in ("rows", "columns"))
    example = torch.zeros(batch, 3, *size, device=model.model.device)
    model.fields = tuple(model.eval().named(example))  # tracing would forget them
    try:
        return torch.export.export(
            model,
            (example,),
            dynamic_shapes=({2: rows, 3: columns},) if dynamic else None,
            strict=False,
            # Whether an image is padded is no other graph.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    except (RuntimeError, ValueError, NotImplementedError, torch._dynamo.exc.UserError) as error:
        kind = "images of every size" if dynamic else f"images of {size[0]}x{size[1]}"
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{type(model.model).__name__} cannot be exported for {kind}: {reason}"
        ) from error


def metadata(model: ExportedModel, categories: list[dict[str, Any]], image_format: str) -> str:
    """Return what a user of the program needs to know, as JSON text.

    Args:
        categories: of the contiguous ids, as COCO has them.
        image_format: channel order of the pixels, "RGB" or "BGR".
    """
    return json.dumps(
        {
            "model": type(model.model).__name__,
            "input": "pixels from 0 to 255" if model.normalize else "normalized images",
            "channels": image_format,
            "divisor": model.divisor,
            "pixel_mean": model.model.pixel_mean.flatten().tolist(),
            "pixel_std": model.model.pixel_std.flatten().tolist(),
            "outputs": model.fields,
            "categories": categories,
        }
    )
