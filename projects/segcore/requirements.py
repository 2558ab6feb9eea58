"""Requirements that package metadata cannot name; the error has the command to run."""

import warnings
from importlib.util import find_spec

from segcore.errors import RequirementError


def require_detectron2() -> None:
    """Raise RequirementError, with the command that installs it, unless Detectron2 is installed.

    Also ignores the one warning that recent PyTorch gives when Detectron2 and fvcore are imported.
    """
    _require("detectron2", "Detectron2", "python -m segcore.install_detectron2")
    warnings.filterwarnings(
        "ignore", r"`torch\.jit\.script` is deprecated", FutureWarning, r"torch\.jit\."
    )


def require_panopticapi() -> None:
    """Raise RequirementError, with the command to install it, unless panopticapi is installed."""
    _require("panopticapi", "panopticapi", "python -m segcore.install_detectron2")


def require_timm() -> None:
    """Raise RequirementError, naming the extra, unless timm, for training, is installed."""
    _require("timm", "timm", "pip install 'panoptic-toolkit[timm]'")


def require_supervision() -> None:
    """Raise RequirementError, with the command to install it, unless supervision is installed."""
    _require("supervision", "supervision", "pip install supervision")


def require_av() -> None:
    """Raise RequirementError, naming the extra, unless PyAV, for video files, is installed."""
    _require("av", "PyAV", "pip install 'panoptic-toolkit[video]'")


def require_onnx() -> None:
    """Raise RequirementError, naming the extra, unless the packages that write ONNX are there."""
    for module in ("onnx", "onnxscript"):
        _require(module, module, "pip install 'panoptic-toolkit[onnx]'")


def require_onnxruntime() -> None:
    """Raise RequirementError, naming the extra, unless onnxruntime is installed."""
    _require("onnxruntime", "onnxruntime", "pip install 'panoptic-toolkit[onnx]'")


def require_serve() -> None:
    """Raise RequirementError, naming the extra, unless what ``segcore serve`` needs is there."""
    for module, name in (("starlette", "Starlette"), ("uvicorn", "uvicorn")):
        _require(module, name, "pip install 'panoptic-toolkit[serve]'")


def _require(module: str, name: str, command: str) -> None:
    if find_spec(module) is None:
        raise RequirementError(
            f"{name} is not installed in this Python. Run: {command}    "
            "(in a clone, `make install` makes a .venv with everything)",
            name=module,
        )
