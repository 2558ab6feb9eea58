"""Keys of Mask2Former for videos, with the official names and defaults; ours are below TEST."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from segcore.config.rules import (
    add_rules,
    boolean,
    integer,
    list_of,
    named,
    one_of,
    relation,
    share,
    text,
)

META_ARCHITECTURE = "VideoMaskFormer"
DECODER = "VideoMultiScaleMaskedTransformerDecoder"
AUGMENTATIONS = ("brightness", "contrast", "saturation", "rotation")
CLIP_MAPPERS = ("ytvis_clip", "coco_clip")


def add_mask2former_video_config(cfg: CfgNode) -> None:
    """Add the keys of clips and long videos, in place; those of Mask2Former are there."""
    # Frames of a clip in training: one at random, the others at most so many frames away from it.
    cfg.INPUT.SAMPLING_FRAME_NUM = 2
    cfg.INPUT.SAMPLING_FRAME_RANGE = 20
    cfg.INPUT.SAMPLING_FRAME_SHUFFLE = False
    # Some of "brightness", "contrast", "saturation", "rotation", applied in this order.
    cfg.INPUT.AUGMENTATIONS = []
    # Alike in all frames of a clip; officially they are drawn for each frame.
    cfg.INPUT.AUGMENTATIONS_BY_CLIP = True

    cfg.MODEL.MASK_FORMER.TEST.VIDEO = video = CfgNode()
    # Pairs of a track and a class in the result of a video.
    video.TOPK = 10
    # Frames that the model sees at a time, linked to tracks of the video; 0: all of them.
    video.CLIP_LENGTH = 0
    # Frames that a clip shares with the one before.
    video.CLIP_OVERLAP = 1
    # Least soft IoU, in the shared frames, of a track and what a clip predicts.
    video.LINK_THRESHOLD = 0.3

    # Custom videos: the folder of the frames, and annotations in the format of YouTubeVIS.
    cfg.DATASETS.VIDEO = CfgNode()
    for split in ("TRAIN", "TEST"):
        cfg.DATASETS.VIDEO[split] = CfgNode({"FRAMES": "", "JSON": ""})


add_rules(
    "INPUT",
    {
        "MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range", "choice_by_clip", "range_by_clip"),
        "RANDOM_FLIP": one_of("horizontal", "vertical", "none", "flip_by_clip"),
        "SAMPLING_FRAME_NUM": integer(1, 1000),
        "SAMPLING_FRAME_RANGE": integer(1, 10**6),
        "SAMPLING_FRAME_SHUFFLE": boolean(),
        "AUGMENTATIONS": list_of(named(lambda: AUGMENTATIONS), least=0),
        "AUGMENTATIONS_BY_CLIP": boolean(),
    },
)
add_rules(
    "MODEL.MASK_FORMER.TEST.VIDEO",
    {
        "TOPK": integer(1, 10**6),
        "CLIP_LENGTH": integer(0, 10**6),
        "CLIP_OVERLAP": integer(1, 10**6),
        "LINK_THRESHOLD": share(),
    },
)
add_rules(
    "DATASETS.VIDEO",
    {f"{split}.{name}": text() for split in ("TRAIN", "TEST") for name in ("FRAMES", "JSON")},
)


@relation("INPUT", "MODEL", "DATALOADER")
def _videos(cfg: CfgNode) -> Iterator[str]:
    """Yield what does not go together with clips of videos."""
    inputs, mask_former = cfg.INPUT, cfg.MODEL.MASK_FORMER
    if cfg.MODEL.META_ARCHITECTURE != META_ARCHITECTURE:
        for key in ("MIN_SIZE_TRAIN_SAMPLING", "RANDOM_FLIP"):
            if inputs[key].endswith("_by_clip"):
                yield (
                    f"INPUT.{key}: {inputs[key]!r} is for clips (MODEL.META_ARCHITECTURE "
                    f"{META_ARCHITECTURE!r}), got {cfg.MODEL.META_ARCHITECTURE!r}"
                )
        if inputs.DATASET_MAPPER_NAME in CLIP_MAPPERS:
            yield (
                f"INPUT.DATASET_MAPPER_NAME: {inputs.DATASET_MAPPER_NAME!r} is for "
                f"MODEL.META_ARCHITECTURE {META_ARCHITECTURE!r}, got "
                f"{cfg.MODEL.META_ARCHITECTURE!r}"
            )
        return
    if mask_former.TRANSFORMER_DECODER_NAME != DECODER:
        yield (
            f"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME: expected {DECODER!r} with "
            f"{META_ARCHITECTURE!r}, got {mask_former.TRANSFORMER_DECODER_NAME!r}"
        )
    video = mask_former.TEST.VIDEO
    if video.CLIP_LENGTH and not 2 * video.CLIP_OVERLAP <= video.CLIP_LENGTH:
        yield (
            "MODEL.MASK_FORMER.TEST.VIDEO.CLIP_OVERLAP: expected at most half of CLIP_LENGTH, "
            f"{video.CLIP_LENGTH}, got {video.CLIP_OVERLAP}"
        )
    sizes = tuple(inputs.MIN_SIZE_TRAIN)
    if inputs.MIN_SIZE_TRAIN_SAMPLING == "range_by_clip" and (
        len(sizes) != 2 or sizes[0] > sizes[1]
    ):
        yield (
            "INPUT.MIN_SIZE_TRAIN: expected (smallest, largest), as "
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range_by_clip', got {sizes}"
        )
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        yield (
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS: expected False, as annotations of videos are "
            "lists of frames, got True"
        )
