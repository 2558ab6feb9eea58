#!/usr/bin/env python3
"""Train, resume or evaluate any config: ``python train_net.py --config-file X [KEY VALUE ...]``."""

import sys
from argparse import Namespace

from segcore.requirements import require_detectron2

require_detectron2()

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import segcore.data  # noqa: F401, registers the data sets
from segcore.checkpoint import SafeCheckpointer
from segcore.config import require_datasets
from segcore.data.own_data import check_own_data, setup_own_data
from segcore.data.report import summarize
from segcore.engine import (
    Trainer,
    argument_parser,
    explicit_num_classes,
    fit_to_machine,
    launch,
    load_config,
)
from segcore.errors import UserError
from segcore.evaluation import check_evaluation


def setup(args: Namespace) -> CfgNode:
    """Config, loggers, own data; everything that can be wrong before a model is built."""
    cfg = load_config(args.config_file, args.opts)
    for name in ("segcore", "mask2former"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    fit_to_machine(cfg, args.num_gpus)
    setup_own_data(cfg, explicit_num_classes(args.config_file, args.opts))
    require_datasets(cfg, training=not args.eval_only)
    for dataset_name in cfg.DATASETS.TEST:
        check_evaluation(cfg, dataset_name)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def main(args: Namespace) -> dict:
    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()

    model = Trainer.build_model(cfg)
    SafeCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_tta(cfg, model))
    return results


def check_data(args: Namespace) -> int:
    """Print a report on own data; the exit code says whether they can be used."""
    num_classes = explicit_num_classes(args.config_file, args.opts)
    reports = check_own_data(load_config(args.config_file, args.opts), num_classes)
    if reports:
        print(summarize(reports))
    else:
        print("nothing to check: DATASETS.PANOPTIC.TRAIN and .TEST name no data")
    return 0 if reports and all(report.ok for report in reports) else 1


def run(argv: list[str] | None = None) -> int:
    """The whole program on these arguments; what is wrong with the user's files is said plainly."""
    args = argument_parser().parse_args(argv)
    try:
        if args.check_data:
            return check_data(args)
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except (UserError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    sys.exit(run())
