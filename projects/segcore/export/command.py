"""The work of ``segcore export``."""

import argparse

from tabulate import tabulate

from segcore.errors import ConfigError
from segcore.export.checking import compare
from segcore.export.model import ExportedModel
from segcore.export.program import export_program, metadata
from segcore.export.writing import check_path, write_program
from segcore.predictor import Predictor
from segcore.text import printable


def main(args: argparse.Namespace) -> int:
    """Write the program, check it where that is asked for; return the exit code.

    Args:
        args: of :func:`segcore.cli.export.build_parser`.
    """
    check_path(args.output, args.format)
    if args.batch < 1:
        raise ConfigError(f"--batch: expected at least 1, got {args.batch}")
    predictor = Predictor(args.config_file, args.weights, device="cpu", options=args.opts)
    model = ExportedModel(
        predictor.model, normalize=not args.normalized, outputs=args.outputs
    ).eval()
    program = export_program(model, args.size, batch=args.batch, dynamic=args.dynamic)
    write_program(
        program,
        args.output,
        args.format,
        output_names=model.fields,
        metadata=metadata(model, predictor.categories, predictor.cfg.INPUT.FORMAT),
        standard_operators=args.standard_operators,
    )
    size = args.output.stat().st_size / 2**20
    print(f"wrote {printable(args.output)}, {size:.1f} MiB: {', '.join(model.fields)}")
    for height, width in args.check:
        rows = compare(args.output, args.format, model, (args.batch, 3, height, width))
        print(f"\n{height}x{width}, beside the model:")
        print(tabulate(rows, headers=["output", "largest difference", "differing elements"]))
    return 0
