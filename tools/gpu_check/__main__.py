"""``python -m tools.gpu_check [--device cuda|cpu] [--parts ...] [--output FILE] [--limit 480]``."""

import argparse
import platform
import sys
import time
from pathlib import Path

import torch

from tools.gpu_check.markdown import render
from tools.gpu_check.results import Check, PartResult
from tools.gpu_check.runner import run_part

PARTS = {
    "machine": 30,
    "operators": 90,
    "execution": 60,
    "sizes": 60,
    "training": 120,
    "processes": 60,
    "speed": 180,
    "unit_tests": 150,
    "sanitizer": 190,
}
"""Part -> most seconds on a GPU; what is left of the limit of all bounds it too: what may be
left out comes last."""
SHORTEST = 10  # seconds, in which a part can begin
LIMIT = {"cuda": 480, "cpu": 3600}
"""Device -> seconds for all parts; on the CPU it is the program that is tried."""


def main() -> int:
    """Run the parts, write the file, return 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=default)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, help="Markdown file; without it, standard output")
    parser.add_argument("--limit", type=float, help="seconds for all parts together")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU, `python -m segcore.doctor` says more")

    limit_of_all = arguments.limit or LIMIT[arguments.device]
    scale = max(1, limit_of_all / LIMIT["cuda"])
    deadline = time.monotonic() + limit_of_all
    parts = []
    for name in arguments.parts:
        print(f"==> {name}", flush=True)
        limit = min(scale * PARTS[name], deadline - time.monotonic())
        if limit > SHORTEST:
            parts.append(run_part(name, arguments.device, limit))
        else:
            parts.append(PartResult(name, "", [Check(name, "skipped", "no time was left")], 0))
    text = render(_machine(arguments.device), parts)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
        print(f"==> {arguments.output}")
    else:
        print(text)
    failed = sum(part.count("failed") for part in parts)
    if failed:
        print(f"==> {failed} checks failed")
    return int(failed > 0)


def _machine(device: str) -> str:
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, {time.strftime('%Y-%m-%d')}, {versions}."
    return (
        f"**No GPU was at hand**: from a CPU ({platform.machine()}), {time.strftime('%Y-%m-%d')},"
        f" {versions}. This shows that the program works; sizes are small, times mean nothing."
    )


if __name__ == "__main__":
    sys.exit(main())
