"""Common parts of the meta-architectures: batching of images, checks of annotations, classes."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.structures import BitMasks, ImageList, Instances
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor, nn

from segcore.errors import ConfigError
from segcore.inference import MaskPrediction, ResultMaker
from segcore.text import did_you_mean, short_repr

BACKBONE = "backbone."


class SegmentationModel(nn.Module):
    """A model that takes images in Detectron2's format and normalizes and pads them itself.

    A system gives :meth:`network` and :meth:`losses`, and either :meth:`mask_prediction` or, where
    images of different sizes are more than padding to it, its own :meth:`predict_masks`.

    Args:
        pixel_mean, pixel_std: of each channel, in the range of the input image.
        size_divisibility: batches are padded to a multiple.

    Attributes:
        config_section: the section of ``cfg.MODEL`` that holds the keys of the system.
        result_maker: makes results of what :meth:`predict_masks` returns.
    """

    float32_parts = ("pixel_mean", "pixel_std")  # see segcore.precision

    config_section: ClassVar[str]
    result_maker: ResultMaker

    def __init__(
        self, *, pixel_mean: Sequence[float], pixel_std: Sequence[float], size_divisibility: int
    ):
        super().__init__()
        self.size_divisibility = size_divisibility
        for name, value in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            value = torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and so of the images that the network takes."""
        return next((p.dtype for p in self.parameters()), self.pixel_mean.dtype)

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Compute losses in training, results in evaluation.

        Args:
            batched_inputs: one dict an image in Detectron2's format: "image" (C, H, W), uint8 or
                float, in the channel order of the means; "height", "width" of the output (default:
                size of the image); in training "instances" with gt_classes and gt_masks.

        Returns:
            In training {loss name: weighted scalar}. Else one dict an image, with those wanted of
            "sem_seg", "panoptic_seg" and "instances", see :class:`ResultMaker`.
        """
        if self.training:
            return self.losses(batched_inputs)
        return self.make_results(self.predict_masks(batched_inputs))

    def network(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network in evaluation, from tensor to tensors: the part that can be exported.

        Args:
            images: (B, C, H, W), normalized.

        Returns:
            A NamedTuple of tensors with the images as first dimension.
        """
        raise NotImplementedError

    def why_not_compiled(self) -> str:
        """Return why :func:`segcore.compile` refuses the network, or an empty string."""
        return ""

    def why_results_not_exported(self) -> str:
        """Return why :meth:`exported_results` cannot be had, or an empty string."""
        return "its network returns no class and mask logits of queries"

    def exported_results(
        self, outputs: tuple[Tensor, ...], padded_size: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Make the results that are switched on in tensors of fixed shapes, for export.

        Args:
            outputs: of :meth:`network`.
            padded_size: (H, W) of the images that it was given.
            size: (h, w) of the images without padding, and of the results.
        """
        raise NotImplementedError

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the losses of annotated images: {name: weighted scalar}."""
        raise NotImplementedError

    def predict_masks(self, batched_inputs: list[dict[str, Any]]) -> list[MaskPrediction]:
        """Predict the masks of each image, before they are resized and merged to results."""
        images = self.preprocess_images(batched_inputs)
        padded_size = tuple(images.tensor.shape[-2:])
        return [
            self.mask_prediction(*outputs, padded_size, image_size, output_size(inputs))
            for inputs, image_size, *outputs in zip(
                batched_inputs,
                map(tuple, images.image_sizes),
                *self.network(images.tensor),
                strict=True,
            )
        ]

    def mask_prediction(self, *outputs_and_sizes: Any) -> MaskPrediction:
        """Make a prediction of one image's outputs of :meth:`network`, followed by its padded
        size, its size and its output size, each (height, width)."""
        raise NotImplementedError

    @torch.no_grad()
    def predict_compact(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results of bounded memory, one dict an image, see :meth:`ResultMaker.compact`.

        Args:
            batched_inputs: as ``forward`` takes them.

        Raises:
            RuntimeError: the model is in training mode.
        """
        if self.training:
            raise RuntimeError("predict_compact: expected a model in evaluation mode, call eval()")
        # The features of the network are gone by now, the results need the memory.
        return [
            retry_if_cuda_oom(self.result_maker.compact)(prediction)
            for prediction in self.predict_masks(batched_inputs)
        ]

    def make_results(self, predictions: Sequence[MaskPrediction]) -> list[dict[str, Any]]:
        """Results in Detectron2's format, one dict an image, see :class:`ResultMaker`."""
        return [retry_if_cuda_oom(self.result_maker)(prediction) for prediction in predictions]

    def preprocess_images(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """The images as the backbone sees them: normalized, and padded to one size."""
        normalized = [self.normalized(inputs["image"]) for inputs in batched_inputs]
        return batch_images(normalized, self.size_divisibility)

    def adapt_checkpoint(self, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """Convert a published file of the backbone alone to names of the model.

        Args:
            source: the file, for messages.
        """
        convert = getattr(getattr(self, "backbone", None), "convert_published", None)
        if convert is None or any(name.startswith(BACKBONE) for name in state):
            return state
        known = self.state_dict()
        return {
            BACKBONE + name if BACKBONE + name in known else name: tensor
            for name, tensor in convert(state, source).items()
        }

    def normalized(self, image: Tensor) -> Tensor:
        """One image (C, H, W) on the model's device, in the type of its weights."""
        return ((image.to(self.device) - self.pixel_mean) / self.pixel_std).to(self.dtype)


def require_segmentation_model(model: nn.Module) -> None:
    """Raise a ConfigError unless the model is a :class:`SegmentationModel`."""
    if not isinstance(model, SegmentationModel):
        raise ConfigError(
            f"model: expected one of segcore that segments images, got {type(model).__name__}"
        )


def output_size(inputs: dict[str, Any]) -> tuple[int, int]:
    """Return (height, width) of the results of an image; those of the image by default."""
    height, width = inputs["image"].shape[-2:]
    return inputs.get("height", height), inputs.get("width", width)


def result_switches(cfg: CfgNode) -> CfgNode:
    """The node with the keys SEMANTIC_ON, INSTANCE_ON and PANOPTIC_ON of the config's system.

    Detectron2's ``SemanticSegmentor`` has no keys, and gives semantic results.
    """
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if model is SemanticSegmentor:
        return CfgNode({"SEMANTIC_ON": True, "INSTANCE_ON": False, "PANOPTIC_ON": False})
    return cfg.MODEL[model.config_section].TEST


def batch_images(images: Sequence[Tensor], size_divisibility: int) -> ImageList:
    """Images (C, H, W) in one batch, padded with zeros to a multiple of ``size_divisibility``."""
    batch = ImageList.from_tensors(list(images), size_divisibility)
    if batch.tensor.device.type == "cpu":
        # A CPU's convolutions take a quarter less time.
        batch.tensor = batch.tensor.contiguous(memory_format=torch.channels_last)
    return batch


def checked_target(
    inputs: dict[str, Any], num_classes: int, device: torch.device
) -> dict[str, Tensor]:
    """The annotations of one image of Detectron2's format: "labels" int64 (n,), "masks" bool
    (n, H, W), on ``device``.

    Raises:
        ValueError: they are missing, or do not fit the image or the classes; names the image.
    """
    name = image_name(inputs)
    instances = inputs.get("instances")
    if instances is None or not (instances.has("gt_classes") and instances.has("gt_masks")):
        found = sorted(inputs) if instances is None else sorted(instances.get_fields())
        raise ValueError(
            f"image {name}: instances: expected Instances with gt_classes and gt_masks, got {found}"
        )
    labels = instances.gt_classes
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(
            f"image {name}: gt_classes: expected labels in [0, {num_classes}), "
            f"got {sorted(set(outside.tolist()))} (MODEL.SEM_SEG_HEAD.NUM_CLASSES)"
        )
    masks = mask_tensor(instances, f"image {name}")
    expected = (len(labels), *inputs["image"].shape[-2:])
    if masks.shape != expected:
        raise ValueError(
            f"image {name}: gt_masks: expected (labels, height, width) {expected}, "
            f"got {tuple(masks.shape)}"
        )
    return {"labels": labels.to(device, torch.int64), "masks": masks.to(device).to(torch.bool)}


def image_name(inputs: dict[str, Any]) -> str:
    """Return the name of an image of Detectron2's format for messages."""
    return str(inputs.get("file_name", inputs.get("image_id", "without name")))


def thing_ids_of(train_datasets: Sequence[str], num_classes: int) -> set[int]:
    """The classes in [0, K) that are things, by the metadata of the first training data set.

    A data set that does not tell things from stuff has things only.

    Raises:
        ConfigError: there is no such data set.
    """
    if train_datasets:
        name = train_datasets[0]
        if name not in DatasetCatalog and name not in MetadataCatalog:
            raise ConfigError(
                f"DATASETS.TRAIN: there is no data set {short_repr(name)}, by whose "
                f"metadata things are told from stuff{did_you_mean(name, DatasetCatalog, most=2)}"
            )
        things = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
        if things is not None:
            return set(things.values())
    return set(range(num_classes))


def mask_tensor(instances: Instances, name: str) -> Tensor:
    """Return gt_masks (n, H, W) of ``Instances``; ``name`` is that of the image, for messages."""
    masks = instances.gt_masks
    if isinstance(masks, BitMasks):
        return masks.tensor
    if isinstance(masks, Tensor):
        return masks
    raise ValueError(
        f"{name}: gt_masks: expected a tensor (n, height, width) or BitMasks, "
        f"got {type(masks).__name__}"
    )
