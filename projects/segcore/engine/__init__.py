"""Training and evaluation: launcher, trainer, set-up of a run.

What only a training needs, as :class:`Trainer`, is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from segcore.requirements import require_detectron2

require_detectron2()

from segcore.engine.launch import launch
from segcore.engine.logs import record_setup, run_log
from segcore.engine.output_folder import output_folder
from segcore.engine.setup import (
    explicit_num_classes,
    fit_to_machine,
    load_config,
    setup_config,
)

if TYPE_CHECKING:
    from segcore.engine.trainer import Trainer

__all__ = [
    "Trainer",
    "explicit_num_classes",
    "fit_to_machine",
    "launch",
    "load_config",
    "output_folder",
    "record_setup",
    "run_log",
    "setup_config",
]


def __getattr__(name: str) -> Any:
    if name == "Trainer":
        from segcore.engine.trainer import Trainer

        return Trainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
