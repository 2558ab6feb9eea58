"""What does not fit a GPU, on machines that are made up."""

from pathlib import Path

import pytest

from segcore.doctor.gpu import Gpu, advice
from segcore.ops._library import Library

LOADED = Library(Path("_C_cuda13.abi3.so"), "")
ABSENT = Library(Path("_C_cuda13.abi3.so"), "_C_cuda13.abi3.so has not been built")
OTHER = Library(
    Path("_C_cuda12.abi3.so"),
    "_C_cuda13.abi3.so is not for CUDA 12.8, which PyTorch is built for",
)
GOOD = Gpu("GPU", (9, 0), "")
NO_IMAGE = Gpu("GPU", (7, 5), "CUDA error: no kernel image is available for execution")
OLD_DRIVER = Gpu("GPU", (9, 0), "CUDA driver version is insufficient for CUDA runtime version")


@pytest.mark.parametrize(
    ("cuda", "driver", "library", "gpus"),
    [("13.0", None, LOADED, []), (None, None, ABSENT, []), ("13.0", (13, 1), LOADED, [GOOD])],
    ids=["no driver", "neither driver nor CUDA", "all fits"],
)
def test_says_nothing_where_nothing_is_to_be_done(cuda, driver, library, gpus):
    assert advice(cuda, driver, library, gpus) == []


@pytest.mark.parametrize(
    ("cuda", "driver", "library", "gpus", "words"),
    [
        (None, (13, 0), ABSENT, [], ["built without CUDA", "install one built for CUDA"]),
        ("13.0", (12, 8), LOADED, [], ["CUDA up to 12.8", "install driver 580 or newer"]),
        ("14.1", (13, 0), LOADED, [], ["a newer driver", "built for CUDA 13"]),
        ("13.0", (13, 0), LOADED, [], ["sees no GPU", "CUDA_VISIBLE_DEVICES"]),
        ("13.0", (13, 0), ABSENT, [GOOD], ["has not been built", "`make cuda` builds"]),
        ("12.8", (12, 8), OTHER, [GOOD], ["is not for CUDA 12.8", "CUDA 13", "driver 580"]),
        ("13.0", (13, 0), LOADED, [NO_IMAGE], ["TORCH_CUDA_ARCH_LIST=7.5 make cuda"]),
        ("12.8", (12, 8), LOADED, [OLD_DRIVER], ["Install driver 580"]),
    ],
)
def test_names_the_way_out(cuda, driver, library, gpus, words):
    (line,) = advice(cuda, driver, library, gpus)
    for word in words:
        assert word in line
