"""The work of ``segcore train``, ``segcore evaluate`` and ``train_net.py``."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from segcore.checkpoint import SafeCheckpointer
from segcore.config import require_datasets
from segcore.data.custom_data import check_custom_data, setup_custom_data
from segcore.data.datasets import require_training_files
from segcore.data.report import Report, summarize
from segcore.engine.launch import launch
from segcore.engine.logs import record_setup, run_log
from segcore.engine.output_folder import output_folder
from segcore.engine.setup import explicit_num_classes, fit_to_machine, load_config
from segcore.engine.trainer import Trainer
from segcore.errors import ConfigError
from segcore.evaluation import check_evaluation, require_expected_results, require_ground_truth
from segcore.host_memory import LARGE_BYTES, keep_freed_memory


def main(args: Namespace) -> int:
    """Train, evaluate or check data; return the exit code.

    Args:
        args: of the parsers in :mod:`segcore.cli.train`.
    """
    misplaced = [word for word in args.opts if word.startswith("--")]
    if misplaced:
        raise ConfigError(f"{misplaced[0]}: options come before the first KEY VALUE pair")
    if args.weights:
        args.opts = ["MODEL.WEIGHTS", args.weights, *args.opts]
    if args.check_data or args.suggest_config:
        return check_data(args)
    launch(
        run_process,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
    return 0


def setup(cfg: CfgNode, args: Namespace) -> None:
    """Custom data and this machine; everything that can be wrong before a model is built."""
    fit_to_machine(cfg, args.num_gpus)
    setup_custom_data(cfg, explicit_num_classes(args.config_file, args.opts))
    require_datasets(cfg, training=not args.eval_only)
    if not args.eval_only:
        require_training_files(cfg)
    for dataset_name in cfg.DATASETS.TEST:
        check_evaluation(cfg, dataset_name)
    cfg.freeze()
    record_setup(cfg, Path(cfg.OUTPUT_DIR))
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only


@contextmanager
def owned_output(cfg: CfgNode, args: Namespace) -> Iterator[None]:
    """Hold ``OUTPUT_DIR`` on the main process; write the logs of all processes there."""
    with ExitStack() as stack:
        if comm.is_main_process():
            trains_anew = not (args.resume or args.eval_only)
            stack.enter_context(output_folder(cfg.OUTPUT_DIR, trains_anew=trains_anew))
        comm.synchronize()
        stack.enter_context(run_log(Path(cfg.OUTPUT_DIR)))
        yield


def run_process(args: Namespace) -> dict:
    """Do the work of one process of the job."""
    cfg = load_config(args.config_file, args.opts)
    with owned_output(cfg, args):
        setup(cfg, args)
        if cfg.MODEL.DEVICE == "cpu":
            keep_freed_memory(LARGE_BYTES if args.eval_only else None)
        return evaluate(cfg, args.resume) if args.eval_only else train(cfg, args.resume)


def train(cfg: CfgNode, resume: bool) -> dict:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def evaluate(cfg: CfgNode, resume: bool) -> dict:
    model = Trainer.build_model(cfg)
    checkpointer = SafeCheckpointer.for_evaluation(model, cfg)
    if resume and not checkpointer.has_checkpoint():
        raise ConfigError(
            f"--resume: OUTPUT_DIR {cfg.OUTPUT_DIR} has no checkpoint to evaluate; name a file by "
            "MODEL.WEIGHTS, without --resume"
        )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_tta(cfg, model))
    if comm.is_main_process():
        require_expected_results(cfg, results)
    return results


def check_data(args: Namespace) -> int:
    """Report on custom data, or look for the files of registered data sets; 0 if all is well."""
    cfg = load_config(args.config_file, args.opts)
    num_classes = explicit_num_classes(args.config_file, args.opts)
    reports = check_custom_data(cfg, num_classes)
    if reports:
        print(summarize(reports))
    if not all(report.ok for report in reports):
        show_data(cfg, args, reports)
        return 1
    setup_custom_data(cfg, num_classes, quick=True)
    require_datasets(cfg, training=bool(cfg.DATASETS.TRAIN))
    require_training_files(cfg)
    for dataset_name in cfg.DATASETS.TEST:
        # Evaluation on custom data reads files that training derives.
        check = require_ground_truth if reports else check_evaluation
        check(cfg, dataset_name)
    if not reports:
        names = ", ".join((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        print(f"found the files of {names}" if names else "nothing to check: DATASETS is empty")
        return 0 if names else 1
    show_data(cfg, args, reports)
    return 0


def show_data(cfg: CfgNode, args: Namespace, reports: list[Report]) -> None:
    """Write the page of the check, and the configuration if one is asked for."""
    from segcore.report.data_page import report_on_data

    written = report_on_data(
        cfg,
        reports,
        suggestion=args.suggest_config,
        config_file=args.config_file,
        opts=args.opts,
    )
    print("Written:", *written)
