"""Results of photos as files: overlays, COCO panoptic PNG + JSON, COCO instances."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segcore.data.images import encode_image
from segcore.data.panoptic_format import Category
from segcore.demo.names import free_stem, utf8
from segcore.demo.result_files import Results, Run, write_results
from segcore.files import write_bytes
from segcore.inference import QueryAttention
from segcore.inference.coco import at_least, coco_records
from segcore.visualization import (
    Row,
    SegmentMap,
    draw_attention,
    draw_focus,
    draw_instances,
    draw_panoptic,
    draw_semantic,
    instance_rows,
    panoptic_rows,
    semantic_rows,
    strips,
)

MAX_JPEG_EDGE = 65_500  # pixels
JPEG_QUALITY = 90
SAVE_INTERVAL = 1.0  # seconds between two savings of the JSON files, if these take little time
SAVE_SHARE = 0.05  # largest share of the time that saving takes


class ResultWriter:
    """Writer of results into a folder, every file atomically.

    * ``overlay/<photo>.jpg``: segments over the photo.
    * ``panoptic/<photo>.png`` and ``panoptic.json``: COCO panoptic format.
    * ``instances.json``: COCO's result format.
    * ``semantic/<photo>.png``: contiguous classes, for models with semantic results only.
    * ``focus/<photo>.png`` and ``attention/<photo>.png``: tokens and attention, if given.
    * ``photos.json``: photos that are done, of a run.

    The JSON files list the finished photos. They are written every few seconds, in case the
    process is killed, and by :meth:`finish`. Those of an earlier run are replaced.

    Args:
        folder: output folder, created if needed.
        categories: see ``segcore.visualization.categories_of``.
        score_threshold: instances with a lower score are left out.
        run: that can be resumed and merged; the ids of the images of shard (i, n) are i, i + n, ...
        earlier: results of this run so far, to which others are added.
    """

    def __init__(
        self,
        folder: str | Path,
        categories: Sequence[Category],
        score_threshold: float,
        run: Run | None = None,
        earlier: Results | None = None,
    ):
        self.folder = Path(folder)
        self.categories = categories
        self.score_threshold = score_threshold
        self._results = earlier or Results(categories)
        self._results.run = run
        self._stems = {image["name"] for image in self._results.images}
        first, self._id_step = run.shard if run else (1, 1)
        last_id = max((image["id"] for image in self._results.images), default=0)
        self._next_id = last_id + self._id_step if last_id else first
        self._saved = self.done  # photos in the JSON files
        self._next_save = 0.0

    def add(
        self,
        path: Path,
        photo: np.ndarray,
        result: dict[str, Any],
        focus: Sequence[tuple[torch.Tensor, torch.Tensor | None]] | None = None,
        attention: Sequence[QueryAttention] | None = None,
    ) -> list[Row]:
        """Write the results of one photo; if that fails, none of its files remain.

        Args:
            path: file of the photo, after which the results are named.
            photo: (H, W, 3) uint8, BGR.
            result: the compact form: "panoptic_seg", "instances", "semantic_map".
            focus: result of ``PhotoPredictor.focus``.
            attention: result of ``PhotoPredictor.attention``.

        Returns:
            the table of segments: panoptic if there are such, else instances, else classes.

        Raises:
            OutputError: a file cannot be written.
        """
        stem, rgb = free_stem(path, self._stems), photo[:, :, ::-1]
        image = {
            "id": self._next_id,
            "file_name": utf8(path),
            "height": photo.shape[0],
            "width": photo.shape[1],
            "name": stem,
        }
        annotations: list[dict] = []
        records: list[dict] = []
        instances = result.get("instances")
        if instances is not None:
            instances = at_least(instances, self.score_threshold)
            records = coco_records(instances, self.categories, image["id"])

        with _all_or_nothing() as written:
            if "panoptic_seg" in result:
                ids, segments = result["panoptic_seg"]
                segment_map = SegmentMap.from_ids(ids.numpy(), [s["id"] for s in segments])
                annotations.append(self._panoptic_annotation(image, stem, segments, segment_map))
                self._save(written, "panoptic", stem, encode_ids(ids.numpy()))
                overlay = draw_panoptic(rgb, segment_map, segments, self.categories)
                areas = [extent.area for extent in segment_map.extents]
                rows = panoptic_rows(areas, segments, self.categories, ids.numel())
            elif instances is not None:
                overlay = draw_instances(rgb, instances, self.categories)
                rows = instance_rows(instances, self.categories)
            else:
                labels = result["semantic_map"].numpy()
                overlay = draw_semantic(rgb, labels, self.categories)
                rows = semantic_rows(labels, self.categories)
                # 8 bits hold 256 classes, 16 bits all that data sets have
                dtype = np.uint8 if len(self.categories) <= 256 else np.uint16
                self._save(written, "semantic", stem, labels.astype(dtype, copy=False))
            self._save(written, "overlay", stem, overlay)
            if focus is not None:
                self._save(written, "focus", stem, draw_focus(rgb, focus))
            if attention:
                picture = draw_attention(rgb, attention, self.categories)
                self._save(written, "attention", stem, picture)

        self._stems.add(stem)
        self._next_id += self._id_step
        self._results.images.append(image)
        self._results.annotations += annotations
        if instances is not None:
            self._results.instances = self._results.instances or []
            self._results.instances += records
        if time.monotonic() >= self._next_save:
            self.finish()
        return rows

    def finish(self, *, finished: bool = False) -> None:
        """Write the JSON files of the photos so far, unless they are up to date.

        Args:
            finished: the run has come to its end.

        Raises:
            OutputError: they cannot be written.
        """
        run = self._results.run
        news = self._saved != self.done
        if run and finished:
            news, run.finished = True, True
        if not news:
            return
        start = time.monotonic()
        write_results(self._results, self.folder)
        self._saved = self.done
        end = time.monotonic()
        self._next_save = end + max(SAVE_INTERVAL, (end - start) / SAVE_SHARE)

    @property
    def done(self) -> int:
        """Number of photos whose results are written."""
        return len(self._results.images)

    def _save(self, written: list[Path], kind: str, stem: str, pixels: np.ndarray) -> None:
        """Write an RGB picture (H, W, 3), or a map (H, W), and note its path."""
        if kind == "overlay" and max(pixels.shape) <= MAX_JPEG_EDGE:
            path = self.folder / kind / f"{stem}.jpg"
            content = encode_image(pixels, "JPEG", quality=JPEG_QUALITY)
        else:
            path = self.folder / kind / f"{stem}.png"
            content = encode_image(pixels, "PNG")
        write_bytes(content, path)
        written.append(path)

    def _panoptic_annotation(
        self, image: dict, stem: str, segments: Sequence[dict], segment_map: SegmentMap
    ) -> dict:
        return {
            "image_id": image["id"],
            "file_name": f"{stem}.png",
            "segments_info": [
                {
                    "id": segment["id"],
                    "category_id": self.categories[segment["category_id"]]["id"],
                    "iscrowd": 0,
                    "area": extent.area,
                    "bbox": list(extent.box),
                }
                for segment, extent in zip(segments, segment_map.extents, strict=True)
            ],
        }


@contextmanager
def _all_or_nothing() -> Iterator[list[Path]]:
    """Yield a list of files to fill; delete them on any error."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """Encode ids as colors of a panoptic PNG: int (H, W) -> uint8 (H, W, 3)."""
    colors = np.empty((*ids.shape, 3), np.uint8)
    for rows in strips(ids.shape):
        strip = ids[rows]
        for channel in range(3):
            colors[rows, :, channel] = (strip >> (8 * channel)) & 255
    return colors
