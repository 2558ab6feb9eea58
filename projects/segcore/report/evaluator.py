"""Evaluators whose results become a page, ``TEST.REPORT``."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from segcore.errors import OutputError
from segcore.report.charts import curves_svg
from segcore.report.content import (
    category_content,
    evaluation_content,
    panoptic_content,
    photo_content,
)
from segcore.report.page import write_page

logger = logging.getLogger(__name__)


class ReportedEvaluators(DatasetEvaluators):
    """Evaluators of a data set; the main process writes their results as a page, too.

    Args:
        evaluators: one a task; a :class:`segcore.evaluation.PanopticEvaluator` that keeps photos
            gives the page details and pictures.
        cfg: of the run.
        dataset_name: of the data set.
        path: of the page.
    """

    def __init__(
        self,
        evaluators: Sequence[DatasetEvaluator],
        cfg: CfgNode,
        dataset_name: str,
        path: str | Path,
    ):
        super().__init__(evaluators)
        self.cfg, self.dataset_name, self.path = cfg, dataset_name, Path(path)

    def evaluate(self) -> OrderedDict[str, dict[str, Any]]:
        results = super().evaluate()
        if comm.is_main_process() and results:
            self._write(results)
        return results

    def _write(self, results: OrderedDict[str, dict[str, Any]]) -> None:
        content = evaluation_content(self.cfg, self.dataset_name, results)
        for evaluator in self._evaluators:
            result = getattr(evaluator, "panoptic_result", None)
            if result is not None:
                content["panoptic"] = panoptic_content(result, evaluator.boundary_result)
                content["categories"] = category_content(result.categories)
                content["photos"] = photo_content(evaluator.photos)
        try:
            write_evaluation_page(self.path, content)
        except OutputError as error:  # no reason to end a training
            logger.warning("no report: %s", error)
        else:
            logger.info("Report: %s", self.path)


def write_evaluation_page(path: str | Path, content: dict[str, Any]) -> None:
    """Write the page of an evaluation, of :func:`evaluation_content`."""
    write_page(path, "evaluation.html", data=content, curves=curves_svg({"": content["curves"]}))
