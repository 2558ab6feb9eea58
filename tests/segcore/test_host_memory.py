import subprocess
import sys

import pytest

# Faults of pages of 4 KiB by 64 MiB that were freed before.
FAULTS = """
import resource
from segcore.host_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"1") * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(int(keep_freed_memory()), faults(), faults())
"""


def kept_and_faults(**environment):
    output = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return map(int, output.split())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_used_again():
    kept, first, second = kept_and_faults()
    if not kept:
        pytest.skip("needs glibc")
    assert second < first / 100


def test_the_environment_takes_precedence():
    kept, _, second = kept_and_faults(MALLOC_MMAP_MAX_="65536")
    assert not kept
    assert second > 1000
