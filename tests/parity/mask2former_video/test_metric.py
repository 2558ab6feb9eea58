"""Average precision and recall of tracks, and their overlaps, against the official evaluation."""

import pycocotools.mask as mask_util
import torch

from mask2former_video.evaluation import result_entries, truth_of
from mask2former_video.metric import Track, measure_tracks, track_ious
from mask2former_video.tracks import TrackMasks, encode_frames
from parity.golden import parametrize_cases, z


@parametrize_cases("mask2former_video", "metric_")
def test_track_metric(case, comparison):
    info = case.info
    truth, categories = truth_of(info["ground_truth"])
    results = [
        Track(r["video_id"], r["category_id"], r["segmentations"], r["score"])
        for r in info["results"]
    ]
    for expected in info["ious"]:
        group = expected["video_id"], expected["category_id"]
        of_results, of_truth = (
            [track for track in tracks if (track.video_id, track.category_id) == group]
            for tracks in (results, truth)
        )
        of_results.sort(key=lambda track: -track.score)
        ious = track_ious(of_results[:100], of_truth)
        if ious.size:
            comparison.close(f"ious {group}", ious, expected["iou"], 1e-9)
    metric = measure_tracks(results, truth, categories)
    for name in ("precision", "recall"):
        actual = case.sampled(name, torch.from_numpy(getattr(metric, name)))
        comparison.close(name, actual, case.arrays[name], 1e-7)
    stats = metric.stats()
    for name, value in info["stats"].items():
        comparison.close(name, stats[name], value, 1e-9)
    for category, value in zip(categories, metric.category_precision(), strict=True):
        expected = info["AP_per_category"][str(category)]
        comparison.close(f"AP {category}", value, -1 if expected is None else expected, 1e-9)
    comparison.check()


@parametrize_cases("mask2former_video", "results_json")
def test_result_entries(case):
    inputs = case.info["inputs"]
    masks = torch.from_numpy(z("results_json.m", [3, 3, 12, 17]) > 1.2)
    run_lengths = encode_frames(masks.double() - 0.5, [(12, 17)])
    output = {
        "pred_scores": inputs["scores"],
        "pred_labels": inputs["labels"],
        "pred_masks": TrackMasks(run_lengths),
    }
    entries = result_entries(inputs["video_id"], output, dict(enumerate(range(5))))
    assert entries == case.info["results"]
    decoded = mask_util.decode(entries[1]["segmentations"]).transpose(2, 0, 1)
    assert (decoded == masks[1].numpy()).all()
