"""What a network predicts for one image, in the form that all systems share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from segcore.inference.windows import ResizedMasks, Size


@dataclass(frozen=True)
class MaskRating:
    """How an instance's score depends on its mask: class score times mean value inside, each to
    its exponent.

    Args:
        threshold: inside of the mask are larger values.
        of_logits: the threshold is one of mask logits, not of mask values.
        area_offset: added to the area that the mean divides by.
    """

    threshold: float
    of_logits: bool = False
    area_offset: float = 1.0
    class_exponent: float = 1.0
    mask_exponent: float = 1.0

    def inside(self, logits: Tensor, values: Tensor) -> Tensor:
        """The binary masks."""
        return (logits if self.of_logits else values) > self.threshold

    def scores(self, class_scores: Tensor, sums: Tensor, areas: Tensor) -> Tensor:
        """Scores (n,) from class scores, sums of values inside of the masks, and their areas."""
        means = sums / (areas + self.area_offset)
        return class_scores**self.class_exponent * means**self.mask_exponent


@dataclass(frozen=True)
class InstancePrediction:
    """Candidates for instances, n of them.

    Attributes:
        masks: (n,) int64, indices of masks; several may share one.
        labels: (n,) int64.
        scores: (n,) class scores.
        rating: of the masks.
        boxes: (n, 4), absolute (x0, y0, x1, y1); None: those of the masks.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor
    rating: MaskRating
    boxes: Tensor | None = None


@dataclass(frozen=True)
class PanopticPrediction:
    """Candidates for segments, n of them.

    Attributes:
        masks: (n,) int64, indices of masks, each once.
        labels: (n,) int64.
        scores: (n,) class scores.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor


@dataclass(frozen=True)
class MaskPrediction:
    """Masks of low resolution, with what each result needs to know of them.

    Attributes:
        masks: (N, h, w) logits, or values from 0, as the network gives them.
        activation: from them to values from 0; it rises. Values above 1 count as 1, but in ratings.
        sizes: padded, image and output size, see ``resize_mask_logits``.
        class_weights: (K, N), the weight of each mask in the semantic score of each class.
        panoptic, instances: candidates for these results.
        resize_scores: semantic scores are computed at the padded size, and then resized.
    """

    masks: Tensor
    activation: Callable[[Tensor], Tensor]
    sizes: tuple[Size, ...]
    class_weights: Tensor
    panoptic: PanopticPrediction
    instances: InstancePrediction
    resize_scores: bool = False

    @cached_property
    def resized(self) -> ResizedMasks:
        """The masks at the size of the results, by windows."""
        return ResizedMasks(self.masks, *self.sizes, small_at_once=not self.resize_scores)
