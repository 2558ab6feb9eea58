"""The subcommands of ``segcore``."""

from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        summary: line of ``segcore --help``, of 66 characters at most.
        parser: "module:function" that returns the ``ArgumentParser``. The module imports neither
            PyTorch nor Detectron2, so that ``--help`` and wrong arguments are answered at once.
        main: "module:function" that takes the parsed arguments and returns the exit code, as
            :func:`segcore.program.run_program` calls it.
    """

    summary: str
    parser: str
    main: str


COMMANDS = {
    "train": Command(
        "train any configuration, or resume a training",
        "segcore.cli.train:training_parser",
        "segcore.engine.program:main",
    ),
    "evaluate": Command(
        "measure weights on the test data of a configuration",
        "segcore.cli.train:evaluation_parser",
        "segcore.engine.program:main",
    ),
    "compare": Command(
        "put the reports of two evaluations side by side in one page",
        "segcore.cli.compare:build_parser",
        "segcore.report.comparison:main",
    ),
    "predict": Command(
        "segment photos: overlays, COCO panoptic PNG and JSON",
        "segcore.cli.predict:PredictionParser",
        "segcore.demo.program:main",
    ),
    "serve": Command(
        "try models in a local page: drop a photo, move thresholds",
        "segcore.cli.serve:build_parser",
        "segcore.serve.program:main",
    ),
    "merge": Command(
        "join the results of the shards of segcore predict",
        "segcore.cli.merge:build_parser",
        "segcore.demo.merge:main",
    ),
    "convert": Command(
        "make training data of COCO, YOLO, VOC, LabelMe and other files",
        "segcore.cli.convert:build_parser",
        "segcore.data.convert.program:main",
    ),
    "prepare": Command(
        "derive what configurations of a published data set need",
        "segcore.cli.prepare:build_parser",
        "segcore.data.prepare.program:main",
    ),
    "models": Command(
        "list published weights that can be loaded by name",
        "segcore.cli.models:build_parser",
        "segcore.cli.models:main",
    ),
    "export": Command(
        "write a model as ONNX, or as a program of PyTorch or AOTInductor",
        "segcore.cli.export:build_parser",
        "segcore.export.command:main",
    ),
    "analyze": Command(
        "parameters, multiply-adds, time and memory of a configuration",
        "segcore.cli.analyze:build_parser",
        "segcore.analysis.program:main",
    ),
    "doctor": Command(
        "say which operators are compiled, and what fits this machine",
        "segcore.cli.doctor:build_parser",
        "segcore.doctor.report:main",
    ),
}
