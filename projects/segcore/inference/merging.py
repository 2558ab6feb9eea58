"""Merging of overlapping masks to one panoptic map: three strategies, chosen by a config key.

Every system of the repository can be run with each of them, see ``docs/merging.md``.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields

from detectron2.config import CfgNode
from torch import Tensor

from segcore.inference.mask_wise import RatedMasks, is_thing, merge_mask_wise, per_kind, rate_masks
from segcore.inference.pixel_wise import merge_pixel_wise, paint_visible
from segcore.inference.rating import MaskRating
from segcore.inference.segments import PanopticResult

STRATEGIES = ("mask_wise", "pixel_wise", "mask2former")


@dataclass(frozen=True)
class PanopticMerging:
    """Merging strategy with its thresholds; pairs are (things, stuff).

    Args:
        strategy: "mask_wise" (Panoptic SegFormer, Li et al., 2022): whole masks by falling
            merged score; "pixel_wise": each pixel to the largest score times mask value;
            "mask2former": pixel-wise, without masks of which too little remains.
        quality_thresholds: least merged score of a mask (mask-wise).
        overlap_thresholds: largest share of a mask that better masks may have taken (mask-wise).
        mask_threshold: a pixel with a larger value belongs to the mask.
        class_exponent, mask_exponent: exponents in the merged score (:class:`MaskRating`).
        score_threshold: masks with no larger class score are left out (the other two strategies).
        min_visible_share: least share of a mask that must remain ("mask2former").

    Raises:
        ValueError: unknown strategy.
    """

    strategy: str
    quality_thresholds: tuple[float, float] = (0.25, 0.25)
    overlap_thresholds: tuple[float, float] = (0.4, 0.2)
    mask_threshold: float = 0.5
    class_exponent: float = 1.0
    mask_exponent: float = 2.0
    score_threshold: float = 0.3
    min_visible_share: float = 0.8

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"MODEL.PANOPTIC_MERGING.STRATEGY: expected one of {', '.join(STRATEGIES)} or '' "
                f"(the default of the system), got {self.strategy!r}"
            )

    @classmethod
    def from_config(
        cls, cfg: CfgNode, default_strategy: str, **system_thresholds
    ) -> "PanopticMerging":
        """Build the merging that ``MODEL.PANOPTIC_MERGING`` describes.

        Args:
            default_strategy: strategy of the system if STRATEGY is "".
            system_thresholds: fields that other keys of the system define.
        """
        keys = cfg.MODEL.PANOPTIC_MERGING
        thresholds = {
            "quality_thresholds": (keys.QUALITY_THRESHOLD_THINGS, keys.QUALITY_THRESHOLD_STUFF),
            "overlap_thresholds": (keys.OVERLAP_THRESHOLD_THINGS, keys.OVERLAP_THRESHOLD_STUFF),
            **{
                field.name: keys[field.name.upper()]
                for field in fields(cls)
                if field.name.upper() in keys and field.name != "strategy"
            },
        }
        return cls(keys.STRATEGY or default_strategy, **(thresholds | system_thresholds))

    def candidates(
        self,
        scores: Tensor,
        labels: Tensor,
        thing_ids: Collection[int],
        peaks: Tensor | float = 1.0,
    ) -> Tensor:
        """Return the masks that can be in the result: (N,) bool.

        Args:
            scores: (N,) class scores.
            labels: (N,) int64 classes.
            thing_ids: classes that are things.
            peaks: (N,) an upper bound of the values of each mask; 1 for probabilities.
        """
        if self.strategy != "mask_wise":
            return scores > self.score_threshold
        best = scores**self.class_exponent * peaks**self.mask_exponent
        is_thing_mask = is_thing(labels, thing_ids)
        return best >= per_kind(self.quality_thresholds, is_thing_mask, best.dtype)

    @property
    def rating(self) -> MaskRating:
        """Merged scores: class score and mean mask value inside, each to its exponent."""
        return MaskRating(
            self.mask_threshold,
            class_exponent=self.class_exponent,
            mask_exponent=self.mask_exponent,
        )

    def rate(self, scores: Tensor, masks: Tensor) -> RatedMasks:
        """Apply :func:`rate_masks` with the options of this merging."""
        return rate_masks(scores, masks, self.rating)

    def __call__(
        self,
        scores: Tensor,
        labels: Tensor,
        masks: Tensor,
        thing_ids: Collection[int],
        rated: RatedMasks | None = None,
    ) -> PanopticResult:
        """Merge masks to a map where each pixel belongs to one segment or none.

        Args:
            scores: (N,) class scores.
            labels: (N,) int64 classes, without "no object".
            masks: (N, H, W) values from 0; those above 1 count as 1, except in mask-wise merging.
            thing_ids: classes whose segments are instances; the segments of another are one.
            rated: result of :meth:`rate` on the same masks, if known.

        Returns:
            int32 (H, W) of segment ids, 0 = void, and for each segment
            {"id": int, "isthing": bool, "category_id": int}, ids 1, 2, ...: mask-wise by falling
            merged score, which is "score" of the segment, else in the order given. Every segment
            has a pixel.
        """
        if self.strategy == "mask_wise":
            return self.mask_wise(rated or self.rate(scores, masks), labels, thing_ids)
        return merge_pixel_wise(
            scores,
            labels,
            masks,
            thing_ids=thing_ids,
            score_threshold=self.score_threshold,
            mask_threshold=self.mask_threshold,
            min_visible_share=self._min_visible_share,
        )

    def mask_wise(
        self, rated: RatedMasks, labels: Tensor, thing_ids: Collection[int]
    ) -> PanopticResult:
        """Apply :func:`merge_mask_wise` with the thresholds of this merging."""
        return merge_mask_wise(
            rated,
            labels,
            thing_ids=thing_ids,
            quality_thresholds=self.quality_thresholds,
            overlap_thresholds=self.overlap_thresholds,
        )

    def pixel_wise(
        self, best: Tensor, won: Tensor, labels: Tensor, thing_ids: Collection[int]
    ) -> PanopticResult:
        """Apply :func:`paint_visible` with the thresholds of this merging."""
        return paint_visible(best, won, labels, self._min_visible_share, thing_ids)

    @property
    def _min_visible_share(self) -> float:
        return self.min_visible_share if self.strategy == "mask2former" else 0.0
