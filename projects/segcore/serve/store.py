"""Segmented photos in memory: their results with any thresholds, as the page and as files."""

import functools
import json
import secrets
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segcore.errors import UserError
from segcore.inference.merging import PanopticMerging
from segcore.photo_result import PhotoResult
from segcore.report.content import category_content
from segcore.report.pictures import small_map, thumbnail_uri
from segcore.serve.models import Models, Segmentation
from segcore.serve.thresholds import threshold_content, with_thresholds
from segcore.serve.uploads import Limits, decode

MAX_PHOTOS, MAX_BYTES = 16, 2**29  # that are kept; the last photo always is
LONGEST_SIDE = 1024  # pixels, of photo and segments in the page
# Files by their address, and where ``segcore predict`` writes them.
KINDS = {"overlay": "overlay/*", "panoptic.png": "panoptic/*", "panoptic.json": "panoptic.json"}


class ForgottenPhotoError(UserError, LookupError):
    """A photo that is not kept, or not any more."""


class PhotoStore:
    """Segmented photos of the last requests; for one thread.

    Args:
        models: to choose from.
        limits: of photos.
    """

    def __init__(self, models: Models, limits: Limits):
        self.models = models
        self.limits = limits
        self._photos: OrderedDict[str, Segmentation] = OrderedDict()
        # Thresholds move step by step, and downloads follow what is shown.
        self._result = functools.lru_cache(maxsize=1)(self._merge)
        self._files = functools.lru_cache(maxsize=1)(self._write)

    def add(self, path: Path, name: str, model: int, thresholds: Mapping[str, str]) -> dict:
        """Segment a photo; return what the page shows of it: :meth:`describe`, "id" and "picture".

        Args:
            path: of its file.
            name: to call it.
            model: its index.
            thresholds: see :meth:`describe`.
        """
        photo = decode(path, self.limits.megapixels)
        segmentation = Segmentation.predict(self.models[model], photo, name)
        identity = secrets.token_urlsafe(16)
        self._photos[identity] = segmentation
        kept = sum(photo.nbytes for photo in self._photos.values())
        while len(self._photos) > 1 and (len(self._photos) > MAX_PHOTOS or kept > MAX_BYTES):
            kept -= self._photos.popitem(last=False)[1].nbytes
        return {
            "id": identity,
            "picture": thumbnail_uri(photo, LONGEST_SIDE),
            **self.describe(identity, thresholds),
        }

    def describe(self, identity: str, thresholds: Mapping[str, str]) -> dict[str, Any]:
        """Return segments, their map, the classes and the thresholds of a photo as JSON has them.

        Args:
            thresholds: name -> value of those that differ from the model's.

        Raises:
            ForgottenPhotoError: the photo is not kept.
            ThresholdError: a threshold is none.
        """
        segmentation, merging = self._find(identity, thresholds)
        result = self._result(identity, merging)
        height, width = result.panoptic.shape
        return {
            "file": segmentation.name,
            "pixels": [width, height],
            "categories": category_content(result.categories),
            "thresholds": [] if merging is None else threshold_content(merging),
            "map": small_map(
                result.panoptic, [segment.id for segment in result.segments], LONGEST_SIDE
            ).as_json(),
            "segments": _segment_content(result),
        }

    def file(self, identity: str, kind: str, thresholds: Mapping[str, str]) -> tuple[str, bytes]:
        """Return name and content of a file, one of ``KINDS``; raises as :meth:`describe`."""
        _, merging = self._find(identity, thresholds)
        return self._files(identity, merging)[kind]

    def _find(
        self, identity: str, thresholds: Mapping[str, str]
    ) -> tuple[Segmentation, PanopticMerging | None]:
        segmentation = self._photos.get(identity)
        if segmentation is None:
            raise ForgottenPhotoError("this photo is not kept any more: drop it again")
        self._photos.move_to_end(identity)
        merging = segmentation.merging
        return segmentation, merging and with_thresholds(merging, thresholds)

    def _merge(self, identity: str, merging: PanopticMerging | None) -> PhotoResult:
        return self._photos[identity].result(merging)

    def _write(
        self, identity: str, merging: PanopticMerging | None
    ) -> dict[str, tuple[str, bytes]]:
        """Return the files that ``segcore predict`` writes, by kind."""
        result = self._result(identity, merging)
        with tempfile.TemporaryDirectory(prefix="segcore-") as folder:
            result.save(folder)
            files = {kind: next(Path(folder).glob(place)) for kind, place in KINDS.items()}
            stem = files["panoptic.png"].stem
            names = {kind: f"{stem}_{Path(kind).stem}{file.suffix}" for kind, file in files.items()}
            contents = {kind: file.read_bytes() for kind, file in files.items()}
        coco = json.loads(contents["panoptic.json"])
        coco["annotations"][0]["file_name"] = names["panoptic.png"]
        contents["panoptic.json"] = json.dumps(coco).encode()
        return {kind: (names[kind], contents[kind]) for kind in KINDS}


def _segment_content(result: PhotoResult) -> list[dict[str, Any]]:
    """Return class index, area in pixels and, where it is known, score of each segment."""
    classes = {category["id"]: index for index, category in enumerate(result.categories)}
    return [
        {"class": classes[segment.category_id], "area": segment.area}
        | ({} if segment.score is None else {"score": round(segment.score, 4)})
        for segment in result.segments
    ]
