"""AP, memory and time of long videos, by clips that are linked and as a whole.

    python -m benchmarks.long_videos OUTPUT_OF_A_TRAINING [--frames 200] [--videos 4]

Draws videos of moving shapes that cross, hide each other, leave and return, and evaluates a model
of ``make demo SYSTEM=mask2former_video`` on them, one thread. Memory is the peak of the process
while the first video is predicted, beyond what it held before; time is that of the CPU, of a frame.
"""

import argparse
import ctypes
import time
from pathlib import Path

import torch
from tabulate import tabulate

from mask2former_video.drawn_videos import generate
from mask2former_video.evaluation import result_entries, truth_of
from mask2former_video.metric import Track, measure_tracks
from mask2former_video.ytvis import load_ytvis
from mask2former_video.ytvis_format import read_ytvis_json
from segcore import Predictor
from segcore.analysis.measuring import peak_resident_mebibytes, reset_peak_resident_mebibytes

# Frames of a clip, and those that it shares with the one before; 0: the whole video.
CLIPS = ((2, 1), (6, 2), (12, 2), (0, 1))


def predictor_of(weights: str, length: int, overlap: int) -> Predictor:
    torch.set_num_threads(1)
    key = "MODEL.MASK_FORMER.TEST.VIDEO"
    options = [f"{key}.CLIP_LENGTH", str(length), f"{key}.CLIP_OVERLAP", str(overlap)]
    return Predictor(weights, device="cpu", options=options)


def predict_all(predictor: Predictor, records: list[dict]) -> tuple[dict, float, float]:
    """Return the results by video id, the CPU time, and the peak memory in MiB of the first."""
    ctypes.CDLL(None).malloc_trim(0)
    before, results = reset_peak_resident_mebibytes(), {}
    start = time.process_time()
    for record in records:
        results[record["video_id"]] = predictor.predict_video(record["file_names"])
        if len(results) == 1:
            memory = peak_resident_mebibytes() - before
    return results, time.process_time() - start, memory


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
        results, seconds, memory = predict_all(predictor_of(args.weights, length, overlap), records)
        tracks = [
            Track(*map(entry.get, ("video_id", "category_id", "segmentations", "score")))
            for video, result in results.items()
            for entry in result_entries(video, result, category_ids)
        ]
        stats = measure_tracks(tracks, truth, categories).stats()
        shown = [100 * stats[name] for name in ("AP", "AP50", "AR10")]
        milliseconds = 1000 * seconds / (args.videos * args.frames)
        rows.append([length or "all", overlap if length else "", *shown, milliseconds, memory])
        print(rows[-1], flush=True)
    headers = ["frames of a clip", "shared", "AP", "AP50", "AR10", "ms a frame", "MiB"]
    print(tabulate(rows, headers=headers, floatfmt=".1f", tablefmt="github"))


if __name__ == "__main__":
    main()
