"""Files of exported programs, complete or not there."""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.export import ExportedProgram

from segcore.errors import ConfigError
from segcore.export.onnx import to_onnx
from segcore.files import atomic_file, write_bytes

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


FORMATS: dict[str, tuple[str, Callable[[ExportedProgram, Path, str, tuple[str, ...]], None]]] = {
    "torch_export": (".pt2", write_torch),
    "onnx": (".onnx", write_onnx),
    "aoti": (".pt2", write_aoti),
}
"""Suffix and writer of each format."""


def write_program(
    program: ExportedProgram,
    path: str | Path,
    format: str,
    *,
    output_names: tuple[str, ...],
    metadata: str = "{}",
) -> None:
    """Write a program.

    Args:
        path: with the suffix of the format.
        format: one of :data:`FORMATS`.
        output_names: names of the outputs.
        metadata: JSON text to keep with it.

    Raises:
        ConfigError: the format is unknown, or cannot express the program.
        OutputError: the file cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got '{format}'")
    suffix, write = FORMATS[format]
    path = Path(path)
    if path.suffix != suffix:
        raise ConfigError(f"{path}: expected a name with the suffix {suffix}, which {format} has")
    write(program, path, metadata, output_names)
