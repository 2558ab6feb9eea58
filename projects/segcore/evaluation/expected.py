"""Comparison of results with ``TEST.EXPECTED_RESULTS``."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results

from segcore.errors import ConfigError, UserError


def require_expected_results(cfg: CfgNode, results: Mapping[str, Any]) -> None:
    """Compare results (task -> metric -> value) with ``TEST.EXPECTED_RESULTS``, as after training.

    Raises:
        ConfigError: there is no result of a task.
        UserError: a result is missing, or farther off than its tolerance; the log has a table.
    """
    for task, *_ in cfg.TEST.EXPECTED_RESULTS:
        if task not in results:
            raise ConfigError(
                f"TEST.EXPECTED_RESULTS: expected tasks among {', '.join(results)}, got {task!r}"
            )
    try:
        verify_results(cfg, results)
    except SystemExit:
        raise UserError(
            "results differ from TEST.EXPECTED_RESULTS by more than the tolerance; see the log"
        ) from None
