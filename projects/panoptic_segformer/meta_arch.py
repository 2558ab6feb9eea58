"""Panoptic SegFormer as a Detectron2 model: photos to losses, or to segmentation results."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn

from panoptic_segformer.attention import query_attention
from panoptic_segformer.batching import (
    ImageBatch,
    PaddingPolicy,
    by_image,
    common_size,
    join,
    map_size,
)
from panoptic_segformer.build import build_network
from panoptic_segformer.checkpoint_names import rename_official
from panoptic_segformer.class_order import ClassOrder
from panoptic_segformer.criterion import build_criterion
from panoptic_segformer.encoder import MultiScaleEncoder
from panoptic_segformer.location_decoder import LocationDecoder, LocationOutput, class_branches
from panoptic_segformer.location_kinds import LocationKind
from panoptic_segformer.mask_decoder import NUM_MASK_LEVELS, MaskDecoder, MaskOutput
from panoptic_segformer.neck import ChannelMapper
from panoptic_segformer.padding import PaddedShapes, Size
from panoptic_segformer.postprocess import (
    Detections,
    build_result_maker,
    choose_things,
    mask_prediction,
)
from panoptic_segformer.targets import Targets
from segcore.checkpoint import rename_on_load
from segcore.functional import at_least_float32
from segcore.inference import MaskPrediction, QueryAttention, ResultMaker
from segcore.meta_arch import SegmentationModel, output_size, thing_ids_of


@META_ARCH_REGISTRY.register()
class PanopticSegFormer(SegmentationModel):
    """Panoptic SegFormer: thing queries with locations, stuff queries (Li et al., 2022).

    What padding and the other images of a batch do to a result is a matter of its
    :class:`PaddingPolicy`.
    """

    config_section = "PANOPTIC_SEGFORMER"

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_features: Sequence[str],
        neck: ChannelMapper,
        encoder: MultiScaleEncoder,
        location_decoder: LocationDecoder,
        thing_mask_decoder: MaskDecoder,
        stuff_mask_decoder: MaskDecoder,
        class_order: ClassOrder,
        location_kind: LocationKind,
        criterion: nn.Module,
        result_maker: ResultMaker,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 1,
        padding_policy: PaddingPolicy,
    ):
        """
        Args:
            backbone: image batch -> {feature name: map}.
            in_features: the features that the neck takes, fine to coarse.
            location_kind: meaning of the location decoder's coordinates.
            result_maker: decoded masks of an image -> its results.
            pixel_mean, pixel_std: of each channel, in the range of the input image.
            size_divisibility: padded sizes are multiples of it; negative: of that of the backbone.
            padding_policy: which images go through the network together.
        """
        if size_divisibility < 0:
            size_divisibility = backbone.size_divisibility
        super().__init__(
            pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=size_divisibility
        )
        self.backbone = backbone
        self.in_features = in_features
        self.mask_stride = backbone.output_shape()[in_features[0]].stride
        self.neck = neck
        self.encoder = encoder
        self.location_decoder = location_decoder
        self.thing_mask_decoder = thing_mask_decoder
        self.stuff_mask_decoder = stuff_mask_decoder
        self.class_order = class_order
        self.location_kind = location_kind
        self.criterion = criterion
        self.result_maker = result_maker
        self.padding_policy = padding_policy
        embed_dim = encoder.level_embed.shape[1]
        # Of each query first its content, then its position.
        self.stuff_query_embed = nn.Embedding(len(class_order.stuff), 2 * embed_dim)
        self.stuff_class_embed = class_branches(len(stuff_mask_decoder.layers), embed_dim, 1)
        rename_on_load(self, rename_official)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        panoptic_segformer = cfg.MODEL.PANOPTIC_SEGFORMER
        backbone = build_backbone(cfg)
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        thing_ids = thing_ids_of(cfg.DATASETS.TRAIN, num_classes)
        # The thing queries are for stuff as well where there is one set of queries.
        located = set(range(num_classes)) if panoptic_segformer.JOINT_QUERIES else thing_ids
        return {
            "backbone": backbone,
            **build_network(panoptic_segformer, backbone.output_shape(), num_things=len(located)),
            "class_order": ClassOrder(num_classes, located),
            "criterion": build_criterion(cfg),
            "result_maker": build_result_maker(cfg, thing_ids),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    # Asked by SafeCheckpointer, which compares shapes and reports names before the model renames.
    checkpoint_renames = staticmethod(rename_official)

    def class_rows(self) -> dict[str, Sequence[int]]:
        """Entries with a row for each thing class, or for each stuff class."""
        things, stuff = self.class_order.things.tolist(), self.class_order.stuff.tolist()
        branches = self.location_decoder.class_embed.state_dict()
        names = [f"location_decoder.class_embed.{name}" for name in branches]
        return {**dict.fromkeys(names, things), "stuff_query_embed.weight": stuff}

    @property
    def num_queries(self) -> int:
        """Thing queries and, after them, one of each stuff class."""
        return self.location_decoder.query_embed.num_embeddings + len(self.class_order.stuff)

    def attention(
        self, inputs: dict[str, Any], queries: Sequence[int] = (), **options: Any
    ) -> list[QueryAttention]:
        """Return attention maps of queries in an image, see :func:`query_attention`."""
        return query_attention(self, inputs, queries, **options)

    def predict_masks(self, batched_inputs: list[dict[str, Any]]) -> list[MaskPrediction]:
        batches = self.batches(batched_inputs)
        outputs = [self.network(batch.images, batch.image_sizes) for batch in batches]
        detections = by_image(batches, (zip(*output, strict=True) for output in outputs))
        return [
            mask_prediction(
                *scores_labels_masks,
                self.location_kind.boxes(locations),
                output_size=output_size(inputs),
                num_classes=len(self.class_order.index),
                result_maker=self.result_maker,
            )
            for inputs, (*scores_labels_masks, locations) in zip(
                batched_inputs, detections, strict=True
            )
        ]

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the losses of annotated images: {name: weighted scalar}.

        Raises:
            ValueError: annotations that are missing or wrong, see :meth:`Target.from_annotations`.
        """
        size = common_size([inputs["image"] for inputs in batched_inputs], self.size_divisibility)
        # Before the network runs, so that a bad annotation is found by its name.
        targets = Targets.from_annotations(
            batched_inputs, self.class_order, size, self.pixel_mean.dtype
        )
        batches = self.batches(batched_inputs)
        encoded = [self.encode(batch.images, batch.image_sizes) for batch in batches]
        location = join(batches, [location for location, *_ in encoded])
        match = self.criterion.match(location, targets)

        matched, mask_size = match.gather(location.queries), map_size(size, self.mask_stride)
        things, stuff = [], []
        for batch, (_, memory, shapes) in zip(batches, encoded, strict=True):
            queries = torch.stack([matched[i] for i in batch.indices])
            output = self.thing_mask_decoder(queries, None, memory, shapes.spatial_shapes)
            things.append(output.padded(mask_size))
            stuff.append(self.decode_stuff(memory, shapes).padded(mask_size))
        things, stuff = join(batches, things), join(batches, stuff)
        logits = [
            classify(queries).squeeze(-1)
            for classify, queries in zip(self.stuff_class_embed, stuff.queries, strict=True)
        ]
        return self.criterion(location, match, things.masks, stuff.masks, logits, targets)

    def batches(self, batched_inputs: Sequence[dict[str, Any]]) -> list[ImageBatch]:
        """Batch images for the network, as the padding policy says."""
        images = [self.normalized(inputs["image"]) for inputs in batched_inputs]
        return self.padding_policy.batches(images, self.size_divisibility)

    def network(self, images: Tensor, image_sizes: Sequence[Size] | None = None) -> Detections:
        """Detect things and stuff in evaluation.

        Args:
            images: (B, 3, H, W), normalized.
            image_sizes: (h, w) of each without padding; None: there is no padding.
        """
        location, memory, shapes = self.encode(images, image_sizes)
        logits = at_least_float32(location.logits[-1])
        choice = choose_things(logits, self.result_maker.topk_per_image)
        queries = choice.gather(location.queries)
        things = self.thing_mask_decoder(
            queries, None, memory, shapes.spatial_shapes, all_masks=False
        )
        stuff = self.decode_stuff(memory, shapes, all_masks=False)
        stuff_labels = self.class_order.stuff.expand(images.shape[0], -1)
        return Detections(
            torch.cat((choice.scores, self.stuff_scores(stuff)), dim=1),
            torch.cat((self.class_order.things[choice.labels], stuff_labels), dim=1),
            torch.cat((things.masks[-1], stuff.masks[-1]), dim=1),
            choice.gather(location.boxes[-1]),
        )

    def encode(
        self, images: Tensor, image_sizes: Sequence[Size] | None = None
    ) -> tuple[LocationOutput, Tensor, PaddedShapes]:
        """Encode images and locate their things. See :meth:`network`.

        Returns:
            Locations of things; tokens (B, S, C) and shapes of the levels that masks are made from.
        """
        features = self.padding_policy.features(self.backbone, images)
        maps = self.neck([features[name] for name in self.in_features])
        shapes = PaddedShapes.from_maps(maps, images.shape[-2:], image_sizes)
        memory = self.encoder(maps, shapes)
        location = self.location_decoder(
            memory, shapes.spatial_shapes, shapes.valid_ratios(), shapes.token_mask()
        )
        shapes = shapes.first(NUM_MASK_LEVELS)
        return location, memory[:, : shapes.num_tokens].contiguous(), shapes

    def decode_stuff(
        self, memory: Tensor, shapes: PaddedShapes, *, all_masks: bool = True
    ) -> MaskOutput:
        """Run the mask decoder on the queries of all stuff classes. See :class:`MaskDecoder`."""
        content, position = self.stuff_query_embed.weight.chunk(2, dim=1)
        content = content.expand(memory.shape[0], -1, -1)
        return self.stuff_mask_decoder(
            content, position, memory, shapes.spatial_shapes, all_masks=all_masks
        )

    def stuff_scores(self, stuff: MaskOutput) -> Tensor:
        """Return the probability of each stuff class in each image: (B, K_stuff)."""
        logits = self.stuff_class_embed[-1](stuff.queries[-1]).squeeze(-1)
        return at_least_float32(logits).sigmoid()
