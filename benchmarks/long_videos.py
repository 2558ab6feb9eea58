"""AP, memory and time of long videos, by clips that are linked and as a whole.

    python -m benchmarks.long_videos OUTPUT_OF_A_TRAINING [--frames 200] [--videos 4]

Draws videos of moving shapes that cross, hide each other, leave and return, and evaluates a model
of ``make demo SYSTEM=mask2former_video`` on them, one thread. Memory is the peak of the process
while one video is predicted, beyond what the model takes; time is that of the CPU, of a frame.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from benchmarks.common import peak_mebibytes
from tabulate import tabulate

from mask2former_video.drawn_videos import generate
from mask2former_video.evaluation import result_entries, truth_of
from mask2former_video.metric import Track, measure_tracks
from mask2former_video.ytvis import load_ytvis
from mask2former_video.ytvis_format import read_ytvis_json
from segcore import Predictor

# Frames of a clip, and those that it shares with the one before; 0: the whole video.
CLIPS = ((2, 1), (6, 2), (12, 2), (0, 1))


def predictor_of(weights: str, length: int, overlap: int) -> Predictor:
    torch.set_num_threads(1)
    key = "MODEL.MASK_FORMER.TEST.VIDEO"
    options = [f"{key}.CLIP_LENGTH", str(length), f"{key}.CLIP_OVERLAP", str(overlap)]
    return Predictor(weights, device="cpu", options=options)


def prediction(weights: str, length: int, overlap: int, files: list[str]) -> Callable[[], object]:
    """Return a function that predicts one video; the model has run before."""
    predictor = predictor_of(weights, length, overlap)
    predictor.predict_video(files[:2])
    return partial(predictor.predict_video, files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--data", type=Path, default=Path("datasets/long_videos"))
    args = parser.parse_args()
    options = {"num_train": 1, "num_val": args.videos, "num_frames": args.frames}
    folder = generate(args.data, seed=1, **options) / "val"
    records = load_ytvis(folder / "videos.json", folder / "frames")
    truth, categories = truth_of(read_ytvis_json(folder / "videos.json"))
    category_ids = dict(enumerate(categories))
    rows = []
    for length, overlap in CLIPS:
        predictor = predictor_of(args.weights, length, overlap)
        start, tracks = time.process_time(), []
        for record in records:
            result = predictor.predict_video(record["file_names"])
            for entry in result_entries(record["video_id"], result, category_ids):
                keys = ("video_id", "category_id", "segmentations", "score")
                tracks.append(Track(*map(entry.get, keys)))
        seconds = (time.process_time() - start) / (args.videos * args.frames)
        stats = measure_tracks(tracks, truth, categories).stats()
        files = records[0]["file_names"]
        memory = [
            peak_mebibytes(prediction, args.weights, length, overlap, files[:count], device="cpu")
            for count in (args.frames // 2, args.frames)
        ]
        shown = [100 * stats[name] for name in ("AP", "AP50", "AR10")]
        rows.append([length or "whole video", overlap if length else "", *shown, 1000 * seconds])
        rows[-1] += memory
        print(rows[-1], flush=True)
    headers = ["clip", "overlap", "AP", "AP50", "AR10", "ms a frame"]
    headers += [f"MiB, {count} frames" for count in (args.frames // 2, args.frames)]
    print(tabulate(rows, headers=headers, floatfmt=".1f", tablefmt="github"))


if __name__ == "__main__":
    main()
