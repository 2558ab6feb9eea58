"""Results of photos as files: overlays, COCO panoptic PNG + JSON, COCO instances."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from panopticapi.utils import id2rgb
from PIL import Image

from segcore.data.panoptic_format import Category
from segcore.files import atomic_file
from segcore.inference import QueryAttention
from segcore.visualization import (
    Row,
    draw_attention,
    draw_focus,
    draw_instances,
    draw_panoptic,
    draw_semantic,
    instance_rows,
    panoptic_rows,
    semantic_rows,
)


class ResultWriter:
    """Writes into a folder, every file atomically.

    ``overlay/<photo>.jpg`` the segments over the photo; ``panoptic/<photo>.png`` and
    ``panoptic.json`` in COCO panoptic format; ``instances.json`` in COCO's result format;
    ``semantic/<photo>.png`` contiguous classes, of models that give nothing else;
    ``focus/<photo>.png`` where the tokens are, and ``attention/<photo>.png`` what queries attend
    to, if told.

    Args:
        folder: made if needed.
        categories: see ``segcore.visualization.categories_of``.
        score_threshold: instances with a lower score are left out.
    """

    def __init__(self, folder: str | Path, categories: Sequence[Category], score_threshold: float):
        self.folder = Path(folder)
        self.categories = categories
        self.score_threshold = score_threshold
        self._images: list[dict] = []
        self._annotations: list[dict] = []
        self._instances: list[dict] = []
        self._stems: set[str] = set()

    def add(
        self,
        path: Path,
        photo: np.ndarray,
        result: dict[str, Any],
        focus: Sequence[tuple[torch.Tensor, torch.Tensor | None]] | None = None,
        attention: Sequence[QueryAttention] | None = None,
    ) -> list[Row]:
        """Write one photo's results, but for the JSON files.

        Args:
            path: of the photo; gives the results their names.
            photo: (H, W, 3) uint8, BGR.
            result: what ``PhotoPredictor`` gives.
            focus: what ``PhotoPredictor.focus`` gives.
            attention: what ``PhotoPredictor.attention`` gives.

        Returns:
            the table of segments: panoptic if there are such, else instances, else classes.
        """
        stem, rgb = self._unique_stem(path), np.ascontiguousarray(photo[:, :, ::-1])
        image = {
            "id": len(self._images) + 1,
            "file_name": str(path),
            "height": photo.shape[0],
            "width": photo.shape[1],
        }
        self._images.append(image)
        instances = result.get("instances")
        if instances is not None:
            instances = instances[instances.scores >= self.score_threshold]
            self._instances += self._coco_instances(instances, image["id"])

        if "panoptic_seg" in result:
            ids, segments = result["panoptic_seg"]
            self._add_panoptic(image, stem, ids, segments)
            overlay = draw_panoptic(rgb, ids, segments, self.categories)
            rows = panoptic_rows(ids, segments, self.categories, result.get("sem_seg"))
        elif instances is not None:
            overlay = draw_instances(rgb, instances, self.categories)
            rows = instance_rows(instances, self.categories)
        else:
            labels = result["sem_seg"].argmax(dim=0)
            overlay = draw_semantic(rgb, labels, self.categories)
            rows = semantic_rows(labels, self.categories)
            # 8 bits hold 256 classes, 16 bits all that data sets have
            dtype = np.uint8 if len(self.categories) <= 256 else np.uint16
            _save_image(labels.numpy().astype(dtype), self.folder / "semantic" / f"{stem}.png")
        _save_image(overlay, self.folder / "overlay" / f"{stem}.jpg")
        if focus is not None:
            _save_image(draw_focus(rgb, focus), self.folder / "focus" / f"{stem}.png")
        if attention:
            picture = draw_attention(rgb, attention, self.categories)
            _save_image(picture, self.folder / "attention" / f"{stem}.png")
        return rows

    def finish(self) -> None:
        """Write the JSON files of all photos."""
        if self._annotations:
            content = {
                "images": self._images,
                "annotations": self._annotations,
                "categories": list(self.categories),
            }
            _save_json(content, self.folder / "panoptic.json")
        if self._instances:
            _save_json(self._instances, self.folder / "instances.json")

    def _unique_stem(self, path: Path) -> str:
        """The photo's name; numbered where photos of several folders share it."""
        numbered = (f"{path.stem}_{number}" for number in itertools.count(2))
        free = (stem for stem in itertools.chain([path.stem], numbered) if stem not in self._stems)
        stem = next(free)
        self._stems.add(stem)
        return stem

    def _add_panoptic(
        self, image: dict, stem: str, ids: torch.Tensor, segments: Sequence[dict]
    ) -> None:
        array = ids.numpy()
        _save_image(id2rgb(array.astype(np.uint32)), self.folder / "panoptic" / f"{stem}.png")
        self._annotations.append(
            {
                "image_id": image["id"],
                "file_name": f"{stem}.png",
                "segments_info": [
                    {
                        "id": segment["id"],
                        "category_id": self.categories[segment["category_id"]]["id"],
                        "iscrowd": 0,
                        **_extent(array == segment["id"]),
                    }
                    for segment in segments
                ],
            }
        )

    def _coco_instances(self, instances: Instances, image_id: int) -> list[dict]:
        if instances.has("pred_masks"):
            instances.pred_masks = instances.pred_masks > 0
        records = instances_to_coco_json(instances, image_id)
        for record in records:
            record["category_id"] = self.categories[record["category_id"]]["id"]
        return records


def _extent(mask: np.ndarray) -> dict[str, Any]:
    """Area and box (x, y, width, height) in pixels of a mask (H, W) that is not empty."""
    ys, xs = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    left, top = int(xs[0]), int(ys[0])
    box = [left, top, int(xs[-1]) - left + 1, int(ys[-1]) - top + 1]
    return {"area": int(mask.sum()), "bbox": box}


def _save_image(pixels: np.ndarray, path: Path) -> None:
    with atomic_file(path) as file:
        image_format = "JPEG" if path.suffix == ".jpg" else "PNG"
        Image.fromarray(pixels).save(file, format=image_format)


def _save_json(content: Any, path: Path) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content).encode())
