"""OpenCV, optional at import (``from segcore.opencv import cv2``), or an error at its first use.

Networks and operators do without it; mappers and drawings need it.
"""

from typing import Any, NoReturn

from segcore.errors import RequirementError


class _MissingOpenCV:
    def __init__(self, reason: ImportError):
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # asked for by those who inspect modules
            raise AttributeError(name)
        raise RequirementError(
            f"cv2.{name} is needed here, and OpenCV cannot be imported: {self._reason}."
            " Run: pip install opencv-python-headless",
            name="cv2",
        ) from self._reason


cv2: Any
try:
    import cv2
except ImportError as error:
    cv2 = _MissingOpenCV(error)
