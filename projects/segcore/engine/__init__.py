"""Training and evaluation: launcher, trainer, set-up of a run."""

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
