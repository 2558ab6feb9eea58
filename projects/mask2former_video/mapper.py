"""Mappers of clips: frames of a video, or an image several times, with the tracks in each."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from mask2former_video.augmentation import ClipAugmentation, ClipTransformer, clip_augmentations
from mask2former_video.sampling import sample_frames
from segcore.data.images import MAX_PIXELS
from segcore.data.mappers.augmentation import resize_for_test
from segcore.data.mappers.pixels import resized_pixels
from segcore.data.mappers.reading import read_photo, require
from segcore.data.mappers.registry import register_mapper
from segcore.data.mappers.segmentation import rasterize, transform_annotations
from segcore.functional import masks_to_boxes

ABSENT = -1  # id of a track in a frame that does not show it


class ClipMapper:
    """Reads and augments frames, and makes the rows of their tracks, the same in each frame.

    The returned dict has "image", a list of (3, H, W) uint8 in the image format; "instances", a
    list with gt_ids (-1: not seen), gt_classes (the number of classes where the annotation lacks
    the track), gt_masks (``BitMasks``) and gt_boxes of the masks; "file_names", and the other given
    entries but the annotations.

    Args:
        augmentations: applied in order.
        num_frames: of a clip.
        num_classes: K.
        image_format: as :func:`segcore.data.images.read_image` takes it.
        max_pixels: of a frame; those with more are refused.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: Sequence[ClipAugmentation],
        num_frames: int,
        num_classes: int,
        image_format: str,
        max_pixels: int = MAX_PIXELS,
    ):
        self.augmentations = augmentations
        self.num_frames = num_frames
        self.num_classes = num_classes
        self.image_format = image_format
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "augmentations": clip_augmentations(cfg),
            "num_frames": cfg.INPUT.SAMPLING_FRAME_NUM,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "image_format": cfg.INPUT.FORMAT,
            "max_pixels": cfg.INPUT.MAX_PIXELS,
        }

    def map_clip(
        self,
        sample: dict[str, Any],
        file_names: Sequence[str],
        annotations: Sequence[Sequence[dict]],
        track_ids: Sequence[int],
    ) -> dict[str, Any]:
        """Return ``sample`` with frames and instances.

        Args:
            annotations: of each frame, dicts with "id", "category_id", "iscrowd", "segmentation".
            track_ids: the rows.
        """
        transform = ClipTransformer(self.augmentations)
        sample = {**sample, "file_names": list(file_names), "image": [], "instances": []}
        for file_name, tracks in zip(file_names, annotations, strict=True):
            frame = {"file_name": file_name, "height": sample["height"], "width": sample["width"]}
            photo = read_photo(frame, self.image_format, self.max_pixels)
            image, transforms = transform(photo)
            size = image.shape[:2]
            pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
            sample["image"].append(torch.from_numpy(pixels))
            sample["instances"].append(
                self._instances({**frame, "annotations": tracks}, transforms, size, track_ids)
            )
        return sample

    def _instances(
        self,
        frame: dict[str, Any],
        transforms: T.TransformList,
        size: tuple[int, int],
        track_ids: Sequence[int],
    ) -> Instances:
        ids = [a["id"] for a in frame["annotations"] if not a.get("iscrowd", 0)]
        classes, segmentations = transform_annotations(frame, transforms)
        row_of = {track_id: row for row, track_id in enumerate(track_ids)}
        rows = [row_of[track_id] for track_id in ids]

        masks = torch.zeros((len(track_ids), *size), dtype=torch.bool)
        masks[rows] = rasterize(segmentations, size).bool()
        gt_classes = torch.full((len(track_ids),), self.num_classes)
        gt_classes[rows] = torch.tensor(classes, dtype=torch.int64)
        gt_ids = torch.full((len(track_ids),), ABSENT)
        gt_ids[rows] = torch.tensor(ids, dtype=torch.int64)
        gt_ids[~masks.flatten(1).any(1)] = ABSENT

        instances = Instances(size)
        instances.gt_boxes = Boxes(masks_to_boxes(masks))
        instances.gt_classes = gt_classes
        instances.gt_masks = BitMasks(masks)
        instances.gt_ids = gt_ids
        return instances


class YTVISClipMapper(ClipMapper):
    """Takes near frames of a video.

    Args:
        max_distance: of the other frames from one that is drawn, in frames.
        shuffle: whether the frames of a clip are in random order.
        options: arguments of :class:`ClipMapper`.
    """

    @configurable
    def __init__(self, *, max_distance: int, shuffle: bool, **options: Any):
        super().__init__(**options)
        self.max_distance = max_distance
        self.shuffle = shuffle

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            **super().from_config(cfg),
            "max_distance": cfg.INPUT.SAMPLING_FRAME_RANGE,
            "shuffle": cfg.INPUT.SAMPLING_FRAME_SHUFFLE,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        sample = dict(dataset_dict)
        require(sample, "file_names", "annotations", "height", "width")
        file_names, annotations = sample.pop("file_names"), sample.pop("annotations")
        frames = sample_frames(
            len(file_names), self.num_frames, self.max_distance, shuffle=self.shuffle
        )
        chosen = [annotations[frame] for frame in frames]
        track_ids = sorted({track["id"] for tracks in chosen for track in tracks})
        return self.map_clip(sample, [file_names[frame] for frame in frames], chosen, track_ids)


class COCOClipMapper(ClipMapper):
    """Makes a clip of an image: every frame is the same picture, augmented anew."""

    def __call__(self, dataset_dict: dict) -> dict:
        sample = dict(dataset_dict)
        require(sample, "file_name", "annotations", "height", "width")
        file_name, annotations = sample.pop("file_name"), sample.pop("annotations")
        tracks = [
            {**annotation, "id": number}
            for number, annotation in enumerate(a for a in annotations if not a.get("iscrowd", 0))
        ]
        return self.map_clip(
            sample,
            [file_name] * self.num_frames,
            [tracks] * self.num_frames,
            range(len(tracks)),
        )


class VideoFrames(Sequence[Tensor]):
    """The frames (3, h, w) uint8 of a video, read and resized when they are asked for.

    Args:
        record: with "file_names", "height" and "width".
        resize: for tests.
        image_format, max_pixels: as :func:`segcore.data.images.read_image` takes them.
    """

    def __init__(
        self, record: dict, resize: T.Augmentation, image_format: str, max_pixels: int = MAX_PIXELS
    ):
        self.record = {key: record[key] for key in ("file_names", "height", "width")}
        self.resize = resize
        self.image_format = image_format
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.record["file_names"])

    def __getitem__(self, index: int) -> Tensor:
        frame = {**self.record, "file_name": self.record["file_names"][index]}
        image = read_photo(frame, self.image_format, self.max_pixels)
        image = self.resize.get_transform(image).apply_image(image)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


class VideoTestMapper:
    """Gives all frames of a video in order as "image"; "annotations" are left out.

    Where the model works by clips, frames are read when they are asked for (:class:`VideoFrames`).
    """

    __test__ = False  # no test of pytest

    def __init__(self, cfg: CfgNode):
        self.resize = resize_for_test(cfg)
        self.image_format = cfg.INPUT.FORMAT
        self.max_pixels = cfg.INPUT.MAX_PIXELS
        # What sees the whole video needs all frames anyway.
        self.read_ahead = cfg.MODEL.MASK_FORMER.TEST.VIDEO.CLIP_LENGTH == 0

    def __call__(self, dataset_dict: dict) -> dict:
        require(dataset_dict, "file_names", "height", "width")
        sample = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        frames = VideoFrames(sample, self.resize, self.image_format, self.max_pixels)
        sample["image"] = list(frames) if self.read_ahead else frames
        return sample


for _name, _mapper in (("ytvis_clip", YTVISClipMapper), ("coco_clip", COCOClipMapper)):
    register_mapper(
        _name, test=VideoTestMapper, test_pixels=partial(resized_pixels, resize=resize_for_test)
    )(_mapper)
