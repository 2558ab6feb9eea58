"""COCO average precision of instances whose class ids are not 0..n-1."""

import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances


def has_fast_coco_evaluation() -> bool:
    """Return whether the installed Detectron2 has compiled COCO evaluation."""
    try:
        from detectron2._C import COCOevalEvaluateImages  # noqa: F401
    except ImportError:
        return False
    return True


class InstanceSegEvaluator(COCOEvaluator):
    """``COCOEvaluator`` for data sets in which things share one range of class ids with stuff.

    A predicted class must be a value of ``thing_dataset_id_to_contiguous_id``; the values need not
    be 0..n-1. Masks are run-length encoded as they arrive. Ground truth is ``json_file``.

    Args:
        dataset_name: name of a registered data set.
        output_dir: folder for predictions in COCO's format, or None.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        # Both tasks by name: from empty predictions Detectron2 would not guess "segm".
        super().__init__(
            dataset_name,
            tasks=("bbox", "segm"),
            output_dir=output_dir,
            use_fast_impl=has_fast_coco_evaluation(),
        )
        self.dataset_name = dataset_name
        thing_ids = MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id
        self.thing_index = torch.full((max(thing_ids.values(), default=-1) + 1,), -1)
        self.thing_index[list(thing_ids.values())] = torch.arange(len(thing_ids))
        # The parent reads things alone, numbered without gaps, and the class names in the
        # order of the ground truth's categories. Ground truth may list stuff, which has no AP.
        ground_truth = self._coco_api.dataset
        ground_truth["categories"] = [c for c in ground_truth["categories"] if c["id"] in thing_ids]
        self._coco_api.createIndex()
        categories = self._coco_api.loadCats(sorted(self._coco_api.getCatIds()))
        self._metadata = Metadata(
            thing_dataset_id_to_contiguous_id={id_: index for index, id_ in enumerate(thing_ids)},
            thing_classes=[category["name"] for category in categories],
        )

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take the "instances" of some images.

        Raises:
            ValueError: a predicted class is not a thing.
        """
        super().process(
            inputs, [{"instances": self._renumbered(output["instances"])} for output in outputs]
        )

    def _renumbered(self, instances: Instances) -> Instances:
        instances = instances.to("cpu")
        classes = instances.pred_classes
        known = (classes >= 0) & (classes < len(self.thing_index))
        index = (
            torch.where(known, self.thing_index[classes * known], -1) if len(classes) else classes
        )
        if (index < 0).any():
            raise ValueError(
                f"class {int(classes[index < 0][0])} was predicted for an instance, but it is none "
                f"of the things of {self.dataset_name}: "
                f"{torch.nonzero(self.thing_index >= 0).flatten().tolist()}"
            )
        renumbered = Instances(instances.image_size, **instances.get_fields())
        renumbered.pred_classes = index
        return renumbered
