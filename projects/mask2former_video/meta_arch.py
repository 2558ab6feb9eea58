"""Mask2Former for videos as a Detectron2 model: clips to losses, videos to tracks."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from torch import Tensor, nn

from mask2former.checkpoint_names import rename_official
from mask2former.criterion import build_criterion
from mask2former.mask_classification import MaskOutputs
from mask2former.meta_arch import MaskFormer
from mask2former_video.clips import overlapping_clips
from mask2former_video.linking import ClipLinker
from mask2former_video.targets import clip_target, pad_frames
from mask2former_video.tracks import encode_frames
from segcore.backbones.resnet import backbone_features
from segcore.checkpoint import rename_on_load
from segcore.meta_arch import SegmentationModel

# Frames that go through backbone and pixel decoder at a time in evaluation.
FRAMES_PER_CHUNK = 4


@META_ARCH_REGISTRY.register()
class VideoMaskFormer(SegmentationModel):
    """Mask2Former whose queries attend to all frames of a clip: each is a track of its own.

    Mask2Former for Video Instance Segmentation (Cheng et al., 2021). The parameters are those of
    :class:`MaskFormer`, so that a checkpoint of images starts a model of videos.
    """

    config_section = "MASK_FORMER"
    # Of the official files, which name none.
    default_mapper = "ytvis_clip"

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        criterion: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        num_frames: int,
        size_divisibility: int = 32,
        topk: int = 10,
        clip_length: int = 0,
        clip_overlap: int = 1,
        link_threshold: float = 0.3,
    ):
        """
        Args:
            backbone: image batch -> {feature name: map}.
            sem_seg_head: features -> {"pred_logits", "pred_masks", "aux_outputs"}.
            criterion: predictions and targets -> weighted losses.
            pixel_mean, pixel_std: of each channel, in the range of the input image.
            num_frames: frames T of a clip in training.
            size_divisibility: batches are padded to a multiple; negative: to that of the backbone.
            topk: number of pairs of a track and a class in the result of a video.
            clip_length: frames of a clip in evaluation; 0: the whole video.
            clip_overlap: frames that a clip shares with the one before.
            link_threshold: least soft IoU of a track and a query in the frames of two clips.
        """
        if size_divisibility < 0:
            size_divisibility = backbone.size_divisibility
        super().__init__(
            pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=size_divisibility
        )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.num_frames = num_frames
        self.topk = topk
        self.clip_length = clip_length
        self.clip_overlap = clip_overlap
        self.link_threshold = link_threshold
        rename_on_load(self, rename_official)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        video = cfg.MODEL.MASK_FORMER.TEST.VIDEO
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": build_criterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "num_frames": cfg.INPUT.SAMPLING_FRAME_NUM,
            "size_divisibility": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            "topk": video.TOPK,
            "clip_length": video.CLIP_LENGTH,
            "clip_overlap": video.CLIP_OVERLAP,
            "link_threshold": video.LINK_THRESHOLD,
        }

    checkpoint_renames = staticmethod(rename_official)
    class_rows = MaskFormer.class_rows

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Compute losses of clips in training, tracks of videos in evaluation.

        Args:
            batched_inputs: one dict a clip or video: "image", T frames (3, H, W), uint8 or float,
                in the channel order of the means; "height", "width" of the output (default: size of
                the frames); in training "instances", see :func:`clip_target`.

        Returns:
            In training {loss name: weighted scalar}, else see :meth:`predict_video` of each.
        """
        if self.training:
            return self.losses(batched_inputs)
        return [
            self.predict_video(inputs["image"], inputs.get("height"), inputs.get("width"))
            for inputs in batched_inputs
        ]

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the losses of annotated clips: {name: weighted scalar}.

        Raises:
            ValueError: annotations that are missing or wrong, see :func:`clip_target`.
        """
        num_classes = self.sem_seg_head.num_classes
        targets = [
            clip_target(inputs, num_classes, self.num_frames, self.device)
            for inputs in batched_inputs
        ]
        frames = [frame for inputs in batched_inputs for frame in inputs["image"]]
        images = self.preprocess_images([{"image": frame} for frame in frames]).tensor
        targets = [pad_frames(target, images.shape[-2:]) for target in targets]
        return self.criterion(self.sem_seg_head(backbone_features(self.backbone, images)), targets)

    def network(self, images: Tensor) -> MaskOutputs:
        """Class logits (1, Q, K+1) and mask logits (1, Q, T, h, w) of a clip, in evaluation.

        Args:
            images: (T, 3, H, W), normalized.
        """
        head = self.sem_seg_head
        projection = head.mask_projection()
        chunks = [
            head.encode(backbone_features(self.backbone, chunk), project=projection is None)
            for chunk in images.split(FRAMES_PER_CHUNK)
        ]
        maps, mask_features = zip(*chunks, strict=True)
        levels = [torch.cat(level) for level in zip(*maps, strict=True)]
        outputs = head.predictor(levels, torch.cat(mask_features), mask_projection=projection)
        return MaskOutputs(outputs["pred_logits"], outputs["pred_masks"])

    def why_not_compiled(self) -> str:
        return "its graph would hold for one number of frames"

    @torch.no_grad()
    def predict_video(
        self, frames: Iterable[Tensor], height: int | None = None, width: int | None = None
    ) -> dict[str, Any]:
        """Predict the tracks of a video, by clips of ``clip_length`` frames that are linked.

        Args:
            frames: (3, H, W) of one size, in order; taken as they are needed.
            height, width: of the masks; by default those of the frames.

        Returns:
            "image_size" (height, width) of the masks, "pred_scores" and "pred_labels", lists by
            descending score, "pred_masks", of each track a bool mask (T, height, width) on the CPU
            (see :class:`TrackMasks`), and "pred_missing_frames", see :meth:`ClipLinker.finish`.

        Raises:
            ValueError: there is no frame, or one of another size.
            RuntimeError: the model is in training mode.
        """
        if self.training:
            raise RuntimeError("predict_video: expected a model in evaluation mode, call eval()")
        linker = None
        for start, clip in overlapping_clips(frames, self.clip_length, self.clip_overlap):
            if clip[0].dim() != 3:
                raise ValueError(
                    f"frames: expected (3, height, width) each, got {tuple(clip[0].shape)}: "
                    "a photo is a video of one frame, in a list"
                )
            images = self.preprocess_images([{"image": frame} for frame in clip])
            if linker is None:
                frame_size = tuple(clip[0].shape[-2:])
                size = height or frame_size[0], width or frame_size[1]
                padded_size = tuple(images.tensor.shape[-2:])
                encode = partial(encode_frames, sizes=(padded_size, frame_size, size))
                linker = ClipLinker(encode, topk=self.topk, threshold=self.link_threshold)
            _require_one_size(images.image_sizes, frame_size, start)
            outputs = self.network(images.tensor)
            linker.add(start, outputs.class_logits[0], outputs.mask_logits[0])
        if linker is None:
            raise ValueError("frames: expected at least one, got none")
        return {"image_size": size, **linker.finish()}

    def predict_compact(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the results of ``forward``, whose memory is bounded already."""
        if self.training:
            raise RuntimeError("predict_compact: expected a model in evaluation mode, call eval()")
        return self(batched_inputs)


def _require_one_size(
    sizes: Sequence[tuple[int, int]], expected: tuple[int, int], start: int
) -> None:
    """Raise a ValueError that names the first frame of another size."""
    for number, size in enumerate(sizes, start=start):
        if tuple(size) != expected:
            raise ValueError(
                f"frame {number}: expected {expected[0]} x {expected[1]} pixels (height x width) "
                f"as the first frame, got {size[0]} x {size[1]}"
            )
