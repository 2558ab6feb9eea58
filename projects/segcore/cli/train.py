"""Arguments of ``segcore train``, ``segcore evaluate`` and ``train_net.py``."""

import argparse
import os

USAGE = "%(prog)s --config-file FILE [OPTIONS] [KEY VALUE ...]"
EXAMPLES = """\
examples:
  a published configuration, found by its name, on 8 GPUs
    %(prog)s --num-gpus 8 \\
        --config-file coco/panoptic-segmentation/NAME.yaml
  other settings
    %(prog)s --config-file my.yaml SOLVER.IMS_PER_BATCH 4
  two machines: this on the first, and with --machine-rank 1 on the second
    %(prog)s --config-file my.yaml \\
        --num-machines 2 --machine-rank 0 --dist-url tcp://FIRST:PORT
"""


def training_parser() -> argparse.ArgumentParser:
    """Return a parser of the arguments of Detectron2's ``default_argument_parser``, and ours."""
    parser = argparse.ArgumentParser(
        usage=USAGE,
        description="Train a configuration, resume a training, or evaluate.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    _add_config(parser)
    add("--resume", action="store_true", help="go on from the last checkpoint of OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate, do not train")
    add(
        "--check-data",
        action="store_true",
        help="check the data that DATASETS.PANOPTIC names, print a report, write it with pictures "
        "and what training will cost to OUTPUT_DIR/data.html, and do nothing else",
    )
    add(
        "--suggest-config",
        metavar="OUT",
        help="check the data, and write a configuration for them and this machine",
    )
    _add_job(parser)
    return parser


def evaluation_parser() -> argparse.ArgumentParser:
    """Return a parser of the same arguments without those of training."""
    parser = argparse.ArgumentParser(
        usage=USAGE,
        description="Measure weights on the test data of a configuration.",
    )
    _add_config(parser)
    parser.add_argument(
        "--resume", action="store_true", help="evaluate the last checkpoint of OUTPUT_DIR"
    )
    _add_job(parser)
    parser.set_defaults(eval_only=True, check_data=False, suggest_config=None)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="YAML file, or the name of one that comes with this package",
    )
    parser.add_argument("--weights", metavar="FILE", help="the same as MODEL.WEIGHTS FILE")


def _add_job(parser: argparse.ArgumentParser) -> None:
    """Add the processes of the job, and the settings, which come last."""
    # The default of Detectron2: a port that stays the same shows processes that were left over.
    port = 2**15 + 2**14 + hash(os.getuid()) % 2**14
    add = parser.add_argument
    add("--num-gpus", type=int, default=1, metavar="N", help="processes of each machine")
    add("--num-machines", type=int, default=1, metavar="N")
    add("--machine-rank", type=int, default=0, metavar="I", help="number of this machine, from 0")
    add(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        metavar="URL",
        help="where the processes meet; auto takes a free port (default: %(default)s)",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="settings of the config, after all options",
    )
