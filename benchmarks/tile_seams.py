"""A picture of tiles: a drawn scene predicted as a whole, in tiles as they are, and joined.

    python -m benchmarks.tile_seams WEIGHTS docs/images/seams.jpg

WEIGHTS are those of ``make demo``, which know photos of a third of this side.
"""

import argparse
from collections.abc import Callable

import numpy as np

from segcore import Predictor
from segcore.data.images import encode_image
from segcore.data.quickstart import draw
from segcore.files import write_bytes
from segcore.inference.segments import PanopticResult
from segcore.inference.tiles import tiles_of
from segcore.visualization import SegmentMap, draw_panoptic, sheet

SIZE, SEED = (384, 512), 7
THINGS, LARGEST = (34, 34), 0.09
TILE, OVERLAP = 144, 48
Predict = Callable[[np.ndarray], dict]


def not_joined(photo: np.ndarray, predict: Predict) -> tuple[np.ndarray, list[dict]]:
    """Return the panoptic map in which every tile keeps its segments to itself."""
    ids, segments = np.zeros(photo.shape[:2], np.int32), []
    for tile in tiles_of(photo.shape[:2], TILE, OVERLAP):
        local, infos = predict(np.ascontiguousarray(photo[tile.window]))["panoptic_seg"]
        first = len(segments)
        segments += [{**info, "id": first + info["id"]} for info in infos]
        local = np.where(local.numpy() > 0, local.numpy() + first, 0)
        np.copyto(ids[tile.window], local, where=~tile.near_earlier())
    return ids, [segment for segment in segments if (ids == segment["id"]).any()]


def overlay(rgb: np.ndarray, result: PanopticResult, categories: list[dict]) -> np.ndarray:
    ids, segments = np.asarray(result[0]), result[1]
    found = SegmentMap.from_ids(ids, [segment["id"] for segment in segments])
    return draw_panoptic(rgb, found, segments, categories)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("output")
    arguments = parser.parse_args()
    rgb, _, truth = draw(np.random.default_rng(SEED), SIZE, things=THINGS, largest=LARGEST)
    photo = np.ascontiguousarray(rgb[:, :, ::-1])
    predictor = Predictor(arguments.weights, device="cpu")
    results = {
        "as a whole": predictor.predict_compact(photo)["panoptic_seg"],
        "tiles as they are": not_joined(photo, predictor.predict_compact),
        "tiles joined": predictor.predict_tiles(photo, TILE, OVERLAP)["panoptic_seg"],
    }
    pictures = [overlay(rgb, result, predictor.categories) for result in results.values()]
    titles = [f"{name}: {len(segments)} segments" for name, (_, segments) in results.items()]
    print(f"{len(truth)} segments are drawn; {', '.join(titles)}")
    page = sheet([pictures], titles, cell_width=SIZE[1])
    write_bytes(encode_image(page, "JPEG", quality=80), arguments.output)


if __name__ == "__main__":
    main()
