"""Evaluator of panoptic quality that counts while the model predicts."""

import itertools
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from panopticapi.utils import id2rgb
from torch import Tensor

from segcore.data.images import encode_image
from segcore.data.panoptic_format import Annotation, read_panoptic_json, read_panoptic_png
from segcore.evaluation.panoptic_quality import PanopticQuality
from segcore.evaluation.panoptic_result import PanopticResult
from segcore.evaluation.panoptic_table import log_details, panoptic_results
from segcore.evaluation.panopticapi_evaluator import PngFolderEvaluator, require_predictions
from segcore.files import write_bytes, write_json
from segcore.report.photos import ComparedPhoto, PhotoChoice, chosen_photos, segment_scores


class PanopticEvaluator(PngFolderEvaluator):
    """Panoptic quality by :class:`PanopticQuality`; results are equal to panopticapi's.

    Each process compares its own images as they come, and only outcomes of segments are gathered.

    Args:
        dataset_name, output_dir, save_png: see the base class.
        keep_photos: choose photos for a report.
        boundary: also count boundary panoptic quality, see :class:`PanopticQuality`.

    Attributes:
        panoptic_result: of the last evaluation, on the main process.
        boundary_result: likewise, of boundaries; None unless they are counted.
        photos: those chosen, likewise.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        save_png: bool = False,
        keep_photos: bool = False,
        boundary: bool = False,
    ):
        super().__init__(dataset_name, output_dir, save_png=save_png)
        self.keep_photos = keep_photos
        self.boundary = boundary
        self.panoptic_result: PanopticResult | None = None
        self.boundary_result: PanopticResult | None = None
        self.photos: list[ComparedPhoto] = []

    def reset(self) -> None:
        super().reset()
        self._outcomes: dict[Any, np.ndarray] = {}
        self._boundary_outcomes: dict[Any, np.ndarray] = {}
        data = read_panoptic_json(PathManager.get_local_path(self._metadata.panoptic_json))
        self._annotations = {a["image_id"]: a for a in data.pop("annotations")}
        self._description = data
        self._truth_folder = PathManager.get_local_path(self._metadata.panoptic_root)
        self._quality = PanopticQuality(data["categories"])
        self._boundary_quality = PanopticQuality(data["categories"], boundary=True)
        self._choice = PhotoChoice({c["id"]: index for index, c in enumerate(data["categories"])})

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare the predictions for a batch of images.

        Args:
            inputs: dicts with "image_id" and "file_name".
            outputs: dicts with "panoptic_seg": segment ids (H, W), and a list of dicts with "id",
                "isthing" and "category_id" (contiguous), or with dataset ids without "isthing";
                None for ids of the form category * label_divisor + instance, -1 for void. With
                "sem_seg" (K, H, W) the segments of a report have scores.

        Raises:
            ValueError: the prediction does not fit the ground truth; names the image.
        """
        for one, output in zip(inputs, outputs, strict=True):
            ids, infos = output["panoptic_seg"]
            ids = ids.cpu().numpy()
            if infos is None:
                ids, infos = self._from_labels(ids)
            segments = [self._convert_category_id(dict(info)) for info in infos]
            file_name = f"{Path(one['file_name']).stem}.png"
            prediction = {
                "image_id": one["image_id"],
                "file_name": file_name,
                "segments_info": segments,
            }
            self._predictions.append(prediction)
            if self._png_folder:
                write_bytes(encode_image(id2rgb(ids), "PNG"), self._png_folder / file_name)
            if annotation := self._annotations.get(one["image_id"]):
                truth = self._compare(ids, segments, annotation)
                if self.keep_photos:
                    self._choice.add(
                        one["image_id"],
                        one["file_name"],
                        (ids, _with_scores(ids, infos, segments, output.get("sem_seg"))),
                        (truth, annotation["segments_info"]),
                        self._outcomes[one["image_id"]],
                    )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Gather the outcomes of all processes; the result is the main process's.

        Raises:
            ValueError: an image of the ground truth has no prediction.
        """
        comm.synchronize()
        parts = (self._predictions, self._outcomes, self._boundary_outcomes, self._choice.photos)
        gathered = comm.gather(parts)
        if not comm.is_main_process():
            return None
        predictions, outcomes, boundary_outcomes, photos = zip(*gathered, strict=True)
        self.panoptic_result = self._result(outcomes)
        self.boundary_result = self._result(boundary_outcomes) if self.boundary else None
        if self._output_dir:
            annotations = list(itertools.chain.from_iterable(predictions))
            content = {**self._description, "annotations": annotations}
            write_json(content, Path(self._output_dir, "predictions.json"))
        categories = self._description["categories"]
        results = panoptic_results(
            self.panoptic_result.counts(),
            categories,
            self.boundary_result.counts() if self.boundary_result else None,
        )
        log_details(self.panoptic_result)
        self.photos = chosen_photos(itertools.chain.from_iterable(photos), len(categories))
        return results

    def _result(self, parts: Sequence[Mapping[Any, np.ndarray]]) -> PanopticResult:
        """Join the outcomes of all processes, in the order of the ground truth."""
        outcomes = {image: rows for part in parts for image, rows in part.items()}
        require_predictions(list(self._annotations.values()), outcomes)
        return PanopticResult.of_images(
            self._description["categories"], [outcomes[image] for image in self._annotations]
        )

    def _compare(self, ids: np.ndarray, segments: list[dict], annotation: Annotation) -> np.ndarray:
        """Keep the outcomes of an image; return its truth, ids (H, W)."""
        image = annotation["image_id"]
        truth = read_panoptic_png(os.path.join(self._truth_folder, annotation["file_name"]))
        pair = ids, segments, truth, annotation["segments_info"]
        try:
            self._outcomes[image] = self._quality.outcomes(*pair)
            if self.boundary:
                self._boundary_outcomes[image] = self._boundary_quality.outcomes(*pair)
        except ValueError as error:
            raise ValueError(f"image {image!r}: {error}") from error
        return truth

    def _from_labels(self, labels: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Ids and segments of a map with category * label_divisor + instance, -1 for void."""
        things = set(self._metadata.thing_dataset_id_to_contiguous_id.values())
        values = np.unique(labels)
        categories = values // self._metadata.label_divisor
        segments = [
            {"id": value + 1, "category_id": category, "isthing": category in things}
            for value, category in zip(values.tolist(), categories.tolist(), strict=True)
            if value != -1
        ]
        return labels + 1, segments


def _with_scores(
    ids: np.ndarray,
    infos: list[dict[str, Any]],
    segments: list[dict[str, Any]],
    semantic_scores: Tensor | None,
) -> list[dict[str, Any]]:
    """Add "score" to segments, by contiguous ``infos`` and (K, H, W), unless they have one."""
    if semantic_scores is None or any("score" in info for info in infos):
        return segments
    classes = [info["category_id"] for info in infos]
    scores = segment_scores(ids, segments, classes, semantic_scores)
    return [{**info, "score": score} for info, score in zip(segments, scores, strict=True)]
