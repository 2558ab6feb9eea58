"""Export of models to programs that run without Detectron2: PyTorch's, AOTInductor's and ONNX.

See ``docs/export.md``.
"""

from segcore.export.model import ExportedModel, Outputs
from segcore.export.program import export_program
from segcore.export.writing import FORMATS, write_program

__all__ = ["FORMATS", "ExportedModel", "Outputs", "export_program", "write_program"]
