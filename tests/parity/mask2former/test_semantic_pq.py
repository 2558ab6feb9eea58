"""Panoptic quality and mean IoU of semantic predictions."""

from pathlib import PurePosixPath

from parity.golden import Case, Comparison, parametrize_cases
from segcore.evaluation.semantic_pq import prediction_maps, semantic_quality

NUM_CLASSES = 150


@parametrize_cases("mask2former_more", "pq_semantic")
def test_semantic_quality(case: Case, comparison: Comparison):
    def truth(file_name: str):
        return case.arrays["gt_" + PurePosixPath(file_name).stem.removeprefix("im")]

    class_ids = {index: index for index in range(NUM_CLASSES)}
    maps = list(prediction_maps(case.info["predictions"], truth, class_ids))
    for index, (prediction, _) in enumerate(maps):
        comparison.equal(f"pred_{index}", prediction, case.arrays[f"pred_{index}"])

    quality = semantic_quality(maps, [str(index) for index in range(NUM_CLASSES)])
    mean, counts = quality.panoptic.mean(), quality.panoptic.counts()
    actual = {"pq": mean.pq, "sq": mean.sq, "rq": mean.rq, "n": mean.num_classes}
    for name, value in (actual | {"mIoU": quality.mean_iou}).items():
        comparison.close(name, value, case.info["result"][name], case.tolerance)
    for name, expected in case.info["per_class"].items():
        values = dict(zip(("pq", "sq", "rq"), counts.quality()[:, int(name)], strict=True))
        for key, value in expected.items():
            comparison.close(f"{key} of {name}", values[key], value, case.tolerance)
    for name, expected in case.info["counts"].items():
        values = [count[int(name)] for count in (counts.tp, counts.fp, counts.fn)]
        comparison.equal(f"counts of {name}", values, expected)
    comparison.check()
