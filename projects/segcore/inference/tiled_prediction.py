"""Prediction of large images tile by tile."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from segcore.inference.seams import InstanceSeams, PanopticSeams
from segcore.inference.tiles import tiles_of


def predict_tiles(
    photo: np.ndarray,
    predict: Callable[[np.ndarray], dict[str, Any]],
    tile: int,
    overlap: int,
) -> dict[str, Any]:
    """Predict a photo tile by tile; the network's memory is that of one tile.

    Classes of pixels are those of the tile that they lie deeper inside of. For the panoptic map see
    :class:`~segcore.inference.seams.PanopticSeams`, for instances
    :class:`~segcore.inference.seams.InstanceSeams`.

    Args:
        photo: (H, W, 3).
        predict: returns the compact result of a part of it, see
            :meth:`~segcore.inference.ResultMaker.compact`.
        tile: side of a tile in pixels.
        overlap: least number of pixels that neighboring tiles share.

    Returns:
        The compact result at the size of the photo; that of ``predict`` for a photo of one tile.

    Raises:
        ConfigError: see :func:`check_tiling`.
    """
    size = photo.shape[:2]
    tiles = list(tiles_of(size, tile, overlap))
    if len(tiles) == 1:
        return predict(photo)
    joined: dict[str, Any] = {}
    for part in tiles:
        result = predict(np.ascontiguousarray(photo[part.window]))
        if "panoptic_seg" in result:
            ids, segments = result["panoptic_seg"]
            seams = joined.setdefault("panoptic_seg", PanopticSeams(size))
            seams.add(part, ids.numpy(), segments)
        if "instances" in result:
            joined.setdefault("instances", InstanceSeams(size)).add(part, result["instances"])
        if "semantic_map" in result:
            classes = result["semantic_map"].numpy()
            target = joined.setdefault("semantic_map", np.empty(size, classes.dtype))
            np.copyto(target[part.window], classes, where=~part.near_earlier())
    return {
        name: torch.from_numpy(result) if isinstance(result, np.ndarray) else result.finish()
        for name, result in joined.items()
    }
