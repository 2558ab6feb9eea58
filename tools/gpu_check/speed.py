"""Our operators beside what else is installed, by `python -m benchmarks.gpu`; the bytes are those
of arguments and results, each once. Times are medians of the device alone, its caches overwritten
before each. "difference" is that of the output from the twin in float64. FlexAttention and NATTEN
compute something near `cluster_attention`: without the bias of positions."""

import time
from collections.abc import Iterator

from benchmarks.gpu import Options, reports

from tools.gpu_check.results import Table

SECONDS = 150  # of the limit in __main__.py: no table is begun after these


def run(device: str) -> Iterator[Table]:
    on_gpu = device == "cuda"
    options = Options(device, 20 if on_gpu else 2, not on_gpu, time.monotonic() + SECONDS)
    for report in reports(options):
        yield Table(*report)
