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

print(int(keep_freed_memory({})), faults(), faults())
"""


# Resident MiB while half of 32 MiB is freed, in blocks between others, and after they are returned.
RETURN = """
from segcore import host_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) // 256

blocks = [bytearray(b"1") * (64 << 10) for _ in range(512)]
{}
del blocks[::2]
before = resident()
print(int(host_memory.return_freed_memory()), before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("", False),
        ("host_memory.keep_freed_memory(1 << 28)", False),
        ("host_memory.keep_freed_memory()", True),
    ],
)
def test_freed_memory_between_used_blocks_is_returned_unless_all_is_kept(keep, kept):
    program = RETURN.format(keep)
    done, difference = map(int, run(program).split())
    if not done and not kept:
        pytest.skip("needs glibc")
    assert (done, difference > 12) == ((0, False) if kept else (1, True))


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def kept_and_faults(below="", **environment):
    return map(int, run(FAULTS.format(below), **environment).split())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
@pytest.mark.parametrize(("below", "again"), [(None, True), (128 << 20, True), (32 << 20, False)])
def test_freed_memory_is_used_again(below, again):
    kept, first, second = kept_and_faults(below)
    if not kept:
        pytest.skip("needs glibc" if below is None else "needs glibc 2.35")
    assert (second < first / 100) == again


def test_the_environment_takes_precedence():
    kept, _, second = kept_and_faults(MALLOC_MMAP_MAX_="65536")
    assert not kept
    assert second > 1000
