"""Files of exported programs, complete or not there."""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.export import ExportedProgram

from segcore.errors import ConfigError
from segcore.export.onnx import to_onnx
from segcore.files import atomic_file, write_bytes
from segcore.ops import decompositions
from segcore.text import printable

METADATA = "segcore.json"
"""Name of the metadata in a program: an extra file, or an entry of ONNX's metadata."""


def write_torch(program: ExportedProgram, path: Path, metadata: str, _: tuple[str, ...]) -> None:
    """Write what ``torch.export.load`` reads."""
    with atomic_file(path) as file:
        torch.export.save(program, file, extra_files={METADATA: metadata})


def write_onnx(
    program: ExportedProgram, path: Path, metadata: str, output_names: tuple[str, ...]
) -> None:
    """Write an ONNX file with the weights inside, below 2 GiB."""
    converted = to_onnx(program, output_names)
    converted.model.metadata_props[METADATA] = metadata
    buffer = io.BytesIO()
    converted.save(buffer)
    write_bytes(buffer.getvalue(), path)


def write_aoti(program: ExportedProgram, path: Path, metadata: str, _: tuple[str, ...]) -> None:
    """Compile for this machine's processor and write what ``aoti_load_package`` reads."""
    with tempfile.TemporaryDirectory() as folder:
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(Path(folder) / "model.pt2"),
            inductor_configs={"aot_inductor.metadata": {METADATA: metadata}},
        )
        write_bytes(Path(package).read_bytes(), path)


class Format(NamedTuple):
    """Suffix of its files, and their writer."""

    suffix: str
    write: Callable[[ExportedProgram, Path, str, tuple[str, ...]], None]


FORMATS = {
    "onnx": Format(".onnx", write_onnx),
    "torch_export": Format(".pt2", write_torch),
    "aoti": Format(".pt2", write_aoti),
}


def write_program(
    program: ExportedProgram,
    path: str | Path,
    format: str,
    *,
    output_names: tuple[str, ...],
    metadata: str = "{}",
    standard_operators: bool = False,
) -> None:
    """Write a program.

    Args:
        path: with the suffix of the format.
        format: one of :data:`FORMATS`.
        output_names: names of the outputs.
        metadata: JSON text to keep with it.
        standard_operators: replace our operators by their twins in plain PyTorch, so that the
            program needs no library of ours.

    Raises:
        ConfigError: the format or the suffix is wrong, or ONNX cannot express the program.
        OutputError: the file cannot be written.
    """
    check_path(path, format)
    if standard_operators and format != "onnx":
        with torch.no_grad():
            program = program.run_decompositions(decompositions())
    FORMATS[format].write(program, Path(path), metadata, output_names)


def check_path(path: str | Path, format: str) -> None:
    """Raise ConfigError unless there is such a format, and the path has its suffix."""
    if format not in FORMATS:
        raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got {printable(format)}")
    if Path(path).suffix != (suffix := FORMATS[format].suffix):
        raise ConfigError(
            f"{printable(path)}: expected a name that ends in {suffix}, for the format {format}"
        )
