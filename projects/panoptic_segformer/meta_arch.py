"""Panoptic SegFormer as a Detectron2 model: photos to losses, or to segmentation results."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from panoptic_segformer.annotations import Target, make_target, pad_targets
from panoptic_segformer.attention import recorded_attention
from panoptic_segformer.build import build_network
from panoptic_segformer.checkpoint_names import rename_official
from panoptic_segformer.class_order import ClassOrder
from panoptic_segformer.criterion import build_criterion
from panoptic_segformer.encoder import MultiScaleEncoder
from panoptic_segformer.features import Features, padded_features, unpadded_features
from panoptic_segformer.location_decoder import LocationDecoder, LocationOutput, init_class_bias
from panoptic_segformer.mask_decoder import NUM_MASK_LEVELS, MaskDecoder, MaskOutput
from panoptic_segformer.neck import ChannelMapper
from panoptic_segformer.padding import PaddedShapes, Size, decode_without_padding
from panoptic_segformer.postprocess import build_result_maker, choose_things, mask_prediction
from segcore.checkpoint import rename_on_load
from segcore.functional import at_least_float32
from segcore.inference import MaskPrediction, QueryAttention, ResultMaker
from segcore.meta_arch import SegmentationModel, thing_ids_of


@META_ARCH_REGISTRY.register()
class PanopticSegFormer(SegmentationModel):
    """Panoptic SegFormer: thing queries with locations, stuff queries (Li et al., 2022).

    With ``official_padding`` off, padding and the other images of a batch change no result: each
    image has the maps that it would have alone.
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
        criterion: nn.Module,
        result_maker: ResultMaker,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 1,
        official_padding: bool = False,
    ):
        """
        Args:
            backbone: image batch -> {feature name: map}.
            in_features: the features that the neck takes, fine to coarse.
            result_maker: decoded masks of an image -> its results.
            pixel_mean, pixel_std: of each channel, in the range of the input image.
            size_divisibility: batches are padded to a multiple; negative: to that of the backbone.
            official_padding: the mask decoders take padding for image, as in the official code.
        """
        if size_divisibility < 0:
            size_divisibility = backbone.size_divisibility
        super().__init__(
            pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=size_divisibility
        )
        self.backbone = backbone
        shapes = backbone.output_shape()
        self.strides = {name: shapes[name].stride for name in in_features}
        self.neck = neck
        self.encoder = encoder
        self.location_decoder = location_decoder
        self.thing_mask_decoder = thing_mask_decoder
        self.stuff_mask_decoder = stuff_mask_decoder
        self.class_order = class_order
        self.criterion = criterion
        self.result_maker = result_maker
        self.official_padding = official_padding
        embed_dim = encoder.level_embed.shape[1]
        # Of each query first its content, then its position.
        self.stuff_query_embed = nn.Embedding(len(class_order.stuff), 2 * embed_dim)
        self.stuff_class_embed = nn.ModuleList(
            nn.Linear(embed_dim, 1) for _ in stuff_mask_decoder.layers
        )
        for branch in self.stuff_class_embed:
            init_class_bias(branch)
        rename_on_load(self, rename_official)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        panoptic_segformer = cfg.MODEL.PANOPTIC_SEGFORMER
        backbone = build_backbone(cfg)
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        thing_ids = thing_ids_of(cfg.DATASETS.TRAIN, num_classes)
        return {
            "backbone": backbone,
            "in_features": panoptic_segformer.IN_FEATURES,
            **build_network(panoptic_segformer, backbone.output_shape(), num_things=len(thing_ids)),
            "class_order": ClassOrder(num_classes, thing_ids),
            "criterion": build_criterion(cfg),
            "result_maker": build_result_maker(cfg, thing_ids),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": panoptic_segformer.SIZE_DIVISIBILITY,
            "official_padding": panoptic_segformer.OFFICIAL_PADDING,
        }

    # Asked by SafeCheckpointer, which compares shapes and reports names before the model renames.
    checkpoint_renames = staticmethod(rename_official)

    def class_rows(self) -> dict[str, Sequence[int]]:
        """Entries with a row for each thing class, or for each stuff class."""
        things, stuff = self.class_order.things.tolist(), self.class_order.stuff.tolist()
        branches = self.location_decoder.class_embed.state_dict()
        names = [f"location_decoder.class_embed.{name}" for name in branches]
        return {**dict.fromkeys(names, things), "stuff_query_embed.weight": stuff}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, results in evaluation.

        Args:
            batched_inputs: one dict an image in Detectron2's format: "image" (3, H, W), uint8 or
                float, in the channel order of the means; "height", "width" of the output (default:
                size of the image); in training "instances", see :func:`make_target`.

        Returns:
            In training {loss name: weighted scalar}. Else one dict an image, see
            :class:`ResultMaker`.
        """
        if not self.training:
            return self.make_results(self.predict_masks(batched_inputs))
        # Before the network runs, so that a bad annotation is found by its name.
        targets = [
            make_target(inputs, self.class_order, self.pixel_mean.dtype)
            for inputs in batched_inputs
        ]
        location, memory, shapes, padded_size = self._locate(batched_inputs)
        return self._losses(location, memory, shapes, pad_targets(targets, padded_size))

    @property
    def num_queries(self) -> int:
        """Thing queries and, after them, one of each stuff class."""
        return self.location_decoder.query_embed.num_embeddings + len(self.class_order.stuff)

    @torch.no_grad()
    def attention(
        self, inputs: dict[str, Any], queries: Sequence[int] = (), *, count: int = 6
    ) -> list[QueryAttention]:
        """Return attention maps of queries of the mask decoders in an image.

        Args:
            inputs: of one image, as :meth:`forward` takes them.
            queries: indices below ``num_queries``; none for those whose masks are segments.
            count: how many of the latter, at most.

        Returns:
            In the order of ``queries``, or by falling merged score of class and mask; on the CPU.
            Labels are contiguous ids, those of things the most probable ones.
        """
        location, memory, shapes, _ = self._locate([inputs])
        with (
            recorded_attention(self.thing_mask_decoder) as thing_maps,
            recorded_attention(self.stuff_mask_decoder) as stuff_maps,
        ):
            thing = self._decode(
                self.thing_mask_decoder, location.queries, None, memory, shapes, all_masks=False
            )
            stuff = self._decode_stuff(memory, shapes, all_masks=False)
        class_scores, classes = at_least_float32(location.logits[-1][0]).sigmoid().max(dim=-1)
        class_scores = torch.cat((class_scores, self._stuff_scores(stuff)[0]))
        labels = torch.cat((self.class_order.things[classes], self.class_order.stuff))
        height, width = shapes.valid_shapes[0][0]
        masks = torch.cat((thing.masks[-1][0], stuff.masks[-1][0]))[:, :height, :width]
        merging, num_things = self.result_maker.merging, len(classes)
        rated = merging.rate(class_scores, masks)

        chosen = list(queries)
        if not chosen:
            # With query indices as classes, segments tell their queries.
            indices = torch.arange(len(labels), device=labels.device)
            _, segments = merging(class_scores, indices, masks, range(num_things), rated)
            segment_queries = [segment["category_id"] for segment in segments]
            chosen = sorted(segment_queries, key=lambda query: -rated.scores[query])[:count]
        thing_queries = [query for query in chosen if query < num_things]
        stuff_queries = [query for query in chosen if query >= num_things]
        maps = thing_maps(thing_queries) + stuff_maps(
            [query - num_things for query in stuff_queries]
        )
        maps_by_query = dict(zip(thing_queries + stuff_queries, maps, strict=True))
        return [
            QueryAttention(
                query,
                int(labels[query]),
                float(rated.scores[query]),
                [layer[:height, :width].float().cpu() for layer in maps_by_query[query]],
                masks[query].clamp(max=1).float().cpu(),
            )
            for query in chosen
        ]

    def _locate(
        self, batched_inputs: list[dict[str, Any]]
    ) -> tuple[LocationOutput, Tensor, PaddedShapes, Size]:
        """Return locations of things, tokens (B, S, C) and shapes of the levels that masks are made
        from, and (H, W) of the padded batch."""
        images = [self.normalized(inputs["image"]) for inputs in batched_inputs]
        features = self._features(images)
        shapes = features.shapes
        memory = self.encoder(features.maps, shapes)
        location = self.location_decoder(
            memory, shapes.spatial_shapes, shapes.valid_ratios(), shapes.token_mask()
        )
        # The mask decoders take the first levels only.
        shapes = shapes.first(NUM_MASK_LEVELS)
        memory = memory[:, : shapes.num_tokens].contiguous()
        return location, memory, shapes, features.padded_size

    def _features(self, images: list[Tensor]) -> Features:
        if self.official_padding:
            return padded_features(images, self.size_divisibility, self._extract)
        return unpadded_features(
            images,
            self.size_divisibility,
            self._extract,
            strides=[*self.strides.values(), 2 * max(self.strides.values())],
            backbone_divisibility=self.backbone.size_divisibility,
        )

    def _extract(self, batch: Tensor, size: Size) -> list[Tensor]:
        """Maps of all levels of the images of ``size`` at the top left of the batch."""
        features = self.backbone(batch)
        height, width = size
        return self.neck(
            [
                features[name][..., : -(-height // stride), : -(-width // stride)]
                for name, stride in self.strides.items()
            ]
        )

    def _losses(
        self,
        location: LocationOutput,
        memory: Tensor,
        shapes: PaddedShapes,
        targets: list[Target],
    ) -> dict[str, Tensor]:
        match = self.criterion.match(location, targets)
        pairs = zip(location.queries, match.matched_queries, strict=True)
        matched = pad_sequence([queries[indices] for queries, indices in pairs], batch_first=True)
        thing = self._decode(self.thing_mask_decoder, matched, None, memory, shapes)
        stuff = self._decode_stuff(memory, shapes)
        logits = [
            classify(queries).squeeze(-1)
            for classify, queries in zip(self.stuff_class_embed, stuff.queries, strict=True)
        ]
        return self.criterion(location, match, thing.masks, stuff.masks, logits, targets)

    def predict_masks(self, batched_inputs: list[dict[str, Any]]) -> list[MaskPrediction]:
        """The masks of each image before they are resized and merged to results."""
        location, memory, shapes, _ = self._locate(batched_inputs)
        logits = at_least_float32(location.logits[-1])
        choice = choose_things(logits, self.result_maker.topk_per_image)
        thing_queries, boxes = (
            values.gather(1, choice.queries[..., None].expand(-1, -1, values.shape[-1]))
            for values in (location.queries, location.boxes[-1])
        )
        thing = self._decode(
            self.thing_mask_decoder, thing_queries, None, memory, shapes, all_masks=False
        )
        stuff = self._decode_stuff(memory, shapes, all_masks=False)
        stuff_scores = self._stuff_scores(stuff)
        labels = self.class_order.things[choice.labels]
        predictions = []
        for i, inputs in enumerate(batched_inputs):
            height, width = inputs["image"].shape[-2:]
            masks = torch.cat((thing.masks[-1][i], stuff.masks[-1][i]))
            if not self.official_padding:
                rows, columns = shapes.valid_shapes[i][0]
                masks = masks[:, :rows, :columns]
            predictions.append(
                mask_prediction(
                    torch.cat((choice.scores[i], stuff_scores[i])),
                    torch.cat((labels[i], self.class_order.stuff)),
                    masks,
                    boxes[i] if boxes.shape[-1] == 4 else None,
                    output_size=(inputs.get("height", height), inputs.get("width", width)),
                    num_classes=len(self.class_order.index),
                    result_maker=self.result_maker,
                )
            )
        return predictions

    def _stuff_scores(self, stuff: MaskOutput) -> Tensor:
        """Probability of each stuff class in each image: (B, K)."""
        logits = self.stuff_class_embed[-1](stuff.queries[-1]).squeeze(-1)
        return at_least_float32(logits).sigmoid()

    def _decode_stuff(
        self, memory: Tensor, shapes: PaddedShapes, *, all_masks: bool = True
    ) -> MaskOutput:
        content, position = self.stuff_query_embed.weight.chunk(2, dim=1)
        content = content.expand(len(memory), -1, -1)
        return self._decode(
            self.stuff_mask_decoder, content, position, memory, shapes, all_masks=all_masks
        )

    def _decode(
        self,
        decoder: MaskDecoder,
        queries: Tensor,
        position: Tensor | None,
        memory: Tensor,
        shapes: PaddedShapes,
        *,
        all_masks: bool = True,
    ) -> MaskOutput:
        if self.official_padding or not shapes.padded:
            return decoder(queries, position, memory, shapes.spatial_shapes, all_masks=all_masks)
        return decode_without_padding(
            decoder, queries, position, memory, shapes, all_masks=all_masks
        )
