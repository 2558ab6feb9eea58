"""Semantic segmentation, with ground truth that is read as in training."""

from collections.abc import Sequence

from detectron2.evaluation import SemSegEvaluator
from detectron2.utils.file_io import PathManager

from segcore.data.images import MAX_PIXELS, read_ids
from segcore.errors import DataError
from segcore.text import printable


class SemanticEvaluator(SemSegEvaluator):
    """``SemSegEvaluator`` that reads each semantic map by :func:`read_ids` first.

    The parent decodes whatever Pillow takes and names no file; only Detectron2's main branch lets
    a reader be given.
    """

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Take the "sem_seg", (K, H, W) each, of some images.

        Raises:
            ImageError: a semantic map is damaged, refused or missing.
            DataError: it is not of the size of the prediction.
        """
        for record, output in zip(inputs, outputs, strict=True):
            path = PathManager.get_local_path(self.input_file_to_gt_file[record["file_name"]])
            height, width = output["sem_seg"].shape[-2:]
            semantic_map, _ = read_ids(path, max(MAX_PIXELS, height * width))
            if semantic_map.shape != (height, width):
                raise DataError(
                    f"{printable(path)}: expected a semantic map (H, W) of {height} x {width} "
                    f"pixels, as its photo, got an array of shape {semantic_map.shape}"
                )
        super().process(inputs, outputs)
