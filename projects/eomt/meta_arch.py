"""EoMT as a Detectron2 model: photos to losses, or to segmentation results."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.engine import HookBase
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from eomt.annealing import MaskAnnealing, MaskAnnealingHook, build_annealing
from eomt.checkpoint import adapt_checkpoint, adapt_on_load
from eomt.config import input_size
from eomt.images import cut_windows, fit_inside, fit_short_side, pad_to_size, stitch_windows
from eomt.network import EncoderOnlyMaskTransformer
from eomt.optimizer import vit_options
from eomt.vit import TimmViT
from mask2former.criterion import criterion_of
from mask2former.mask_classification import (
    DEFAULT_MERGING,
    MaskClassificationModel,
    MaskOutputs,
    result_options,
)
from segcore.functional import at_least_float32, bilinear
from segcore.inference import PanopticMerging, semantic_inference
from segcore.meta_arch import checked_target, image_name, output_size

Size = tuple[int, int]

VIT = "transformer.backbone.vit."


@META_ARCH_REGISTRY.register()
class EoMT(MaskClassificationModel):
    """Encoder-only mask transformer: a ViT that takes queries in (Kerssies et al., 2025).

    Images are padded with black to one size, then normalized; larger ones are resized to fit.
    """

    config_section = "EOMT"

    @configurable
    def __init__(
        self,
        *,
        transformer: EncoderOnlyMaskTransformer,
        criterion: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_size: Size,
        masked_attention: bool = True,
        masked_attention_in_tests: bool = False,
        annealing: MaskAnnealing | None = None,
        semantic_on: bool = False,
        instance_on: bool = False,
        panoptic_on: bool = True,
        thing_ids: Collection[int] = (),
        panoptic_merging: PanopticMerging = DEFAULT_MERGING,
        topk_per_image: int = 100,
        windows: bool = False,
        delta_base: str = "",
    ):
        """
        Args:
            transformer: the network.
            criterion: predictions and targets -> weighted losses.
            pixel_mean, pixel_std: of each channel, in the range of the input image.
            input_size: (height, width) of the network's input.
            masked_attention, masked_attention_in_tests: hide patches outside of its predicted mask
                from a query, in training and in evaluation.
            annealing: schedule by which training goes over to attention without masks.
            semantic_on, instance_on, panoptic_on: the results wanted.
            thing_ids: classes in [0, K) whose segments are instances, for panoptic results.
            panoptic_merging: of queries with their most probable class, by class probability.
            topk_per_image: number of instances.
            windows: compute semantic results in square windows along the longer side of an image.
            delta_base: file of the ViT that a published file holds the difference to.
        """
        super().__init__(
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            size_divisibility=0,
            semantic_on=semantic_on,
            instance_on=instance_on,
            panoptic_on=panoptic_on,
            thing_ids=thing_ids,
            panoptic_merging=panoptic_merging,
            topk_per_image=topk_per_image,
        )
        self.transformer = transformer
        self.criterion = criterion
        self.input_size = input_size
        self.masked_attention = masked_attention
        self.masked_attention_in_tests = masked_attention_in_tests
        self.annealing = annealing
        self.windows = windows
        self.delta_base = delta_base
        adapt_on_load(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        eomt, num_classes = cfg.MODEL.EOMT, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        test = eomt.TEST
        backbone = TimmViT(
            eomt.VIT.NAME,
            input_size(cfg),
            patch_size=eomt.VIT.PATCH_SIZE,
            drop_path_rate=eomt.VIT.DROP_PATH_RATE,
            arguments=dict(eomt.VIT.ARGUMENTS),
        )
        return {
            "transformer": EncoderOnlyMaskTransformer(
                backbone=backbone,
                num_classes=num_classes,
                num_queries=eomt.NUM_OBJECT_QUERIES,
                num_blocks=eomt.NUM_BLOCKS,
            ),
            "criterion": criterion_of(
                eomt, num_classes, eomt.NUM_BLOCKS, normalize_by_matched=True
            ),
            "input_size": input_size(cfg),
            "masked_attention": eomt.MASKED_ATTENTION,
            "masked_attention_in_tests": test.MASKED_ATTENTION,
            "annealing": build_annealing(cfg),
            **result_options(cfg, cls.config_section),
            "windows": test.WINDOWS,
            "delta_base": eomt.DELTA_BASE,
        }

    def class_rows(self) -> dict[str, Sequence[int]]:
        """Entries with a row for each class, and one for "no object" after them."""
        head = "transformer.class_head."
        names = (head + "weight", head + "bias", "criterion.empty_weight")
        return dict.fromkeys(names, range(self.transformer.num_classes))

    def parameter_options(self, cfg: CfgNode) -> dict[str, dict[str, Any]]:
        """Return the options of the optimizer's groups for the parameters of the ViT."""
        backbone = self.transformer.backbone
        options = vit_options(
            (name for name, _ in backbone.vit.named_parameters()),
            depth=len(backbone.blocks),
            num_blocks=len(self.transformer.attn_mask_probs),
            decay=cfg.SOLVER.LAYER_DECAY,
            decay_last_blocks=cfg.SOLVER.LAYER_DECAY_LAST_BLOCKS,
        )
        return {VIT + name: option for name, option in options.items()}

    def training_hooks(self) -> list[HookBase]:
        """Return the hook of the mask annealing, if there is one."""
        return [MaskAnnealingHook(self.annealing, self.transformer)] if self.annealing else []

    def adapt_checkpoint(self, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """Convert a published checkpoint, see :func:`eomt.checkpoint.adapt_checkpoint`."""
        return adapt_checkpoint(self.transformer, state, source, delta_base=self.delta_base)

    def network(self, images: Tensor) -> MaskOutputs:
        """Class and mask logits of normalized images (B, 3, H, W), in evaluation."""
        return self.transformer(images, masked_attention=self.masked_attention_in_tests)[-1]

    def why_results_not_exported(self) -> str:
        return "it pads or cuts its images in a way of its own"

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the losses of annotated images: {name: weighted scalar}.

        Raises:
            ValueError: annotations that are missing or wrong, see :func:`checked_target`; an image
                that is larger than the network's input.
        """
        num_classes = self.transformer.num_classes
        targets = []
        for inputs in batched_inputs:
            self._check_size(inputs)
            target = checked_target(inputs, num_classes, self.device)
            targets.append(target | {"masks": pad_to_size(target["masks"], self.input_size)})
        images = self.preprocess_images(batched_inputs).tensor
        predictions = self.transformer(images, masked_attention=self.masked_attention)
        *auxiliary, final = [
            {"pred_logits": prediction.class_logits, "pred_masks": prediction.mask_logits}
            for prediction in predictions
        ]
        return self.criterion({**final, "aux_outputs": auxiliary}, targets)

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        if self.training or not self.windows:
            return super().forward(batched_inputs)
        return [{"sem_seg": self.semantic_scores(inputs)} for inputs in batched_inputs]

    @torch.no_grad()
    def predict_compact(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.training or not self.windows:
            return super().predict_compact(batched_inputs)
        return [{"semantic_map": class_map(result["sem_seg"])} for result in self(batched_inputs)]

    @torch.no_grad()
    def semantic_scores(self, inputs: dict[str, Any]) -> Tensor:
        """Compute semantic scores (K, H, W) at the output size, the mean over windows."""
        side = self.input_size[0]
        image = fit_short_side(inputs["image"].to(self.device), side)
        windows = self.normalized(cut_windows(image, side))
        return windowed_scores(self.network(windows), tuple(image.shape[-2:]), output_size(inputs))

    def preprocess_images(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """The images as the network sees them: padded with black, then normalized."""
        images = [
            fit_inside(inputs["image"].to(self.device), self.input_size)
            for inputs in batched_inputs
        ]
        batch = torch.stack([self.normalized(pad_to_size(x, self.input_size)) for x in images])
        return ImageList(batch, [tuple(image.shape[-2:]) for image in images])

    def _check_size(self, inputs: dict[str, Any]) -> None:
        size = tuple(inputs["image"].shape[-2:])
        if any(side > limit for side, limit in zip(size, self.input_size, strict=True)):
            raise ValueError(
                f"image {image_name(inputs)}: expected (height, width) of at most "
                f"{self.input_size} in training, got {size} (INPUT.DATASET_MAPPER_NAME must crop "
                "to the size of the network's input)"
            )


def windowed_scores(outputs: MaskOutputs, image_size: Size, size: Size) -> Tensor:
    """Compute semantic scores from the predictions of the windows of an image.

    Args:
        outputs: of m square windows along the longer side.
        image_size: (H, W) of the image that was cut.
        size: (H, W) of the scores.

    Returns:
        (K, H, W).
    """
    side = min(image_size)
    outputs = MaskOutputs(*map(at_least_float32, outputs))
    scores = torch.stack(
        [
            semantic_inference(
                class_logits.to(mask_logits.dtype).softmax(-1)[:, :-1].T,
                bilinear(mask_logits, (side, side)),
                Tensor.sigmoid,
            )
            for class_logits, mask_logits in zip(*outputs, strict=True)
        ]
    )
    return bilinear(stitch_windows(scores, image_size), size)


def class_map(scores: Tensor) -> Tensor:
    """Return the class with the largest score at each pixel, (K, H, W) -> (H, W), on the CPU."""
    dtypes = (torch.uint8, torch.int16, torch.int32)
    dtype = next(dtype for dtype in dtypes if len(scores) - 1 <= torch.iinfo(dtype).max)
    return scores.argmax(0).to("cpu", dtype)
