"""How well ids stay on objects that a model would find without an error.

    python -m benchmarks.track_ids [--frames 100] [--videos 10]

Draws videos of moving shapes that cross, hide each other, leave and return, and gives their true
masks to :class:`segcore.tracking.SegmentTracker`, each Nth frame only; once with their classes, and
once as if all were of one class. A switch is a frame in which an object has another id than when it
was seen last; a takeover, one in which an id is on another object than before.
"""

import argparse
from itertools import product

import numpy as np
from tabulate import tabulate

from mask2former_video.drawn_videos import draw_video
from segcore.tracking import SegmentTracker

SIZE = (120, 160)
EVERY = (1, 2, 4)
MIN_IOUS = (0.05, 0.1, 0.2, 0.3)


def track(masks: np.ndarray, categories: list[int], every: int, min_iou: float) -> np.ndarray:
    """Track visible masks (N, T, H, W): times that one is seen, switches, takeovers."""
    tracker, id_of, object_of = SegmentTracker(min_iou=min_iou), {}, {}
    counts = np.zeros(3, int)
    for frame in range(0, masks.shape[1], every):
        visible = np.flatnonzero(masks[:, frame].any(axis=(1, 2))).tolist()
        ids = (masks[:, frame] * np.arange(1, len(masks) + 1)[:, None, None]).sum(0)
        segments = [
            {"id": index + 1, "category_id": categories[index], "isthing": True}
            for index in visible
        ]
        _, tracked = tracker.update(ids, segments)
        for index, segment in zip(visible, tracked, strict=True):
            number = segment["id"]
            switched = id_of.setdefault(index, number) != number
            taken = object_of.setdefault(number, index) != index
            counts += (1, switched, taken)
            id_of[index], object_of[number] = number, index
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--videos", type=int, default=10)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    runs = list(product(("own", "one"), MIN_IOUS, EVERY))
    totals = np.zeros((len(runs), 3), int)
    for _ in range(args.videos):
        _, objects = draw_video(rng, args.frames, SIZE)
        masks, labels = np.stack([mask for _, mask in objects]), [label for label, _ in objects]
        classes = {"own": labels, "one": [0] * len(labels)}
        totals += [track(masks, classes[kind], every, iou) for kind, iou, every in runs]
    shares = {
        run: f"{switches / seen:.1%}, {takeovers / seen:.1%}"
        for run, (seen, switches, takeovers) in zip(runs, totals.tolist(), strict=True)
    }
    rows = [
        (iou, kind, *(shares[kind, iou, every] for every in EVERY))
        for kind, iou in product(("own", "one"), MIN_IOUS)
    ]
    headers = ("least IoU", "classes", *(f"every {every}" for every in EVERY))
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
