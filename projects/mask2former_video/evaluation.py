"""Evaluation of tracks on videos annotated in the format of YouTubeVIS."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from mask2former_video.metric import Track, mean_area, measure_tracks
from mask2former_video.ytvis import EVALUATOR_TYPE
from mask2former_video.ytvis_format import (
    Record,
    frame_segmentation,
    read_ytvis_json,
    segmentation_to_rle,
)
from segcore.evaluation import register_evaluator
from segcore.files import write_json

logger = logging.getLogger(__name__)

REPORTED = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10")
RESULTS_FILE = "results.json"


class YTVISEvaluator(DatasetEvaluator):
    """Average precision and recall of tracks, in percent, under "segm".

    The tracks are written to ``results.json``, as the server of YouTubeVIS takes them. Of data
    without annotations, nothing else is done.

    Args:
        dataset_name: name of a registered data set, with ``json_file``.
        output_dir: folder for the results, or None.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        self.metadata = MetadataCatalog.get(dataset_name)
        self.output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        self.results: list[Record] = []

    def process(self, inputs: list[dict], outputs: list[dict[str, Any]]) -> None:
        """Take the tracks of some videos, with "video_id" of the inputs."""
        ids = self.metadata.thing_dataset_id_to_contiguous_id
        category_ids = {index: id_ for id_, index in ids.items()}
        for record, output in zip(inputs, outputs, strict=True):
            self.results += result_entries(record["video_id"], output, category_ids)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"segm": {"AP": ...}}`` of all processes on the main one; {} without ground truth."""
        gathered = comm.gather(self.results)
        if not comm.is_main_process():
            return None
        results = [entry for part in gathered for entry in part]
        if self.output_dir:
            Path(self.output_dir).mkdir(parents=True, exist_ok=True)
            write_json(results, Path(self.output_dir, RESULTS_FILE))
        data = read_ytvis_json(self.metadata.json_file)
        if not data["annotations"]:
            logger.info("%s has no annotations: no AP", self.metadata.json_file)
            return {}
        truth, categories = truth_of(data)
        tracks = [
            Track(entry["video_id"], entry["category_id"], entry["segmentations"], entry["score"])
            for entry in results
        ]
        metric = measure_tracks(tracks, truth, categories)
        stats = metric.stats()
        values = {name: stats[name] for name in REPORTED}
        names = {category["id"]: category["name"] for category in data["categories"]}
        values |= {
            f"AP-{names[category]}": value
            for category, value in zip(categories, metric.category_precision(), strict=True)
        }
        return {"segm": {n: 100 * v if v >= 0 else math.nan for n, v in values.items()}}


def result_entries(
    video_id: int, output: Mapping[str, Any], category_ids: Mapping[int, int]
) -> list[Record]:
    """Return the entries of ``results.json`` of one video, an entry for each track.

    Args:
        output: "pred_scores", "pred_labels" and "pred_masks", see :class:`TrackMasks`.
        category_ids: contiguous class -> id in the annotation file.
    """
    tracks = zip(
        output["pred_scores"], output["pred_labels"], output["pred_masks"].run_lengths, strict=True
    )
    return [
        {
            "video_id": video_id,
            "score": score,
            "category_id": category_ids[label],
            "segmentations": [
                {"size": list(frame["size"]), "counts": frame["counts"].decode("ascii")}
                for frame in frames
            ],
        }
        for score, label, frames in tracks
    ]


def truth_of(data: Mapping[str, list[Record]]) -> tuple[list[Track], list[int]]:
    """Return the tracks of annotations, and the ids of the categories, sorted.

    The area of a track is the mean of the file's "areas", where it has them.
    """
    sizes = {video["id"]: (video["height"], video["width"]) for video in data["videos"]}
    truth = []
    for annotation in data["annotations"]:
        size = sizes[annotation["video_id"]]
        frames = [frame_segmentation(s, size) for s in annotation["segmentations"]]
        areas = annotation.get("areas")
        truth.append(
            Track(
                annotation["video_id"],
                annotation["category_id"],
                [None if frame is None else segmentation_to_rle(frame, size) for frame in frames],
                area=mean_area(areas) if areas else None,
                is_crowd=bool(annotation.get("iscrowd", 0)),
            )
        )
    return truth, sorted(category["id"] for category in data["categories"])


register_evaluator(EVALUATOR_TYPE, YTVISEvaluator, ground_truth=("json_file",))
