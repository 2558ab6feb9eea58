"""What `python -m segcore.doctor` says, and the speed of the device's own copy, bytes read and
written."""

from collections.abc import Iterator

from benchmarks.gpu import copy_bytes_per_second

from segcore.doctor.report import report
from segcore.ops._library import LIBRARIES
from tools.gpu_check.cases import ROOT
from tools.gpu_check.results import Listing, Result, check


def run(device: str) -> Iterator[Result]:
    if device == "cuda":
        yield check("CUDA library", _library)
    yield check("copy", lambda: f"{copy_bytes_per_second(device) / 1e9:.0f} GB/s")
    yield Listing(report().replace(str(ROOT), "."))


def _library() -> str:
    library = LIBRARIES["cuda"]
    assert library.loaded, library.problem
    return f"{library.path.name} is loaded"
