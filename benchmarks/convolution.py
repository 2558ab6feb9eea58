"""3x3 convolutions and group norms of inference beside PyTorch's: CPU time of one thread.

    python -m benchmarks.convolution [--repeats 8]

The maps of a ResNet-50 and of Mask2Former's FPN for an image of 800x1333, channels-last, float32;
with bias and ReLU where oneDNN takes them, too.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from benchmarks.common import least_cpu_seconds
from tabulate import tabulate
from torch import Tensor

from segcore.layers import onednn
from segcore.ops import group_norm_, winograd_conv2d

# Channels, height, width.
MAPS = ((64, 200, 336), (128, 100, 168), (256, 50, 84), (512, 25, 42), (512, 8, 8), (256, 200, 336))
HEADERS = ("", "map", "PyTorch", "oneDNN", "ours", "faster")
GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)  # stride, padding, dilation, groups


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def convolutions(channels: int, height: int, width: int) -> dict[str, Callable[[], object]]:
    x, weight = channels_last(1, channels, height, width), channels_last(channels, channels, 3, 3)
    bias = torch.randn(channels)
    return {
        "PyTorch": lambda: F.conv2d(x, weight, bias, padding=1).relu_(),
        "oneDNN": lambda: onednn.conv2d(x, weight, bias, *GEOMETRY, "relu"),
        "ours": lambda: winograd_conv2d(x, weight, bias, relu=True),
    }


def group_norms(channels: int, height: int, width: int) -> dict[str, Callable[[], object]]:
    x, coarse = (channels_last(1, channels, height // n, width // n) for n in (1, 2))
    weight, bias = torch.randn(2, channels)

    def pytorch() -> Tensor:
        resized = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        return resized.add_(F.group_norm(x, 32, weight, bias))

    return {
        "PyTorch": pytorch,
        "ours": partial(group_norm_, x, 32, weight, bias, 1e-5, coarse),
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, make, maps in (
        ("convolution", convolutions, MAPS),
        ("norm, coarser map added", group_norms, MAPS[-1:]),
    ):
        for channels, height, width in maps:
            seconds = least_cpu_seconds(make(channels, height, width), arguments.repeats)
            times = [1000 * seconds[way] if way in seconds else None for way in HEADERS[2:5]]
            fastest = min(time for time in times[:-1] if time is not None)
            rows.append([name, f"{channels} x {height} x {width}", *times, fastest / times[-1]])
    print(tabulate(rows, HEADERS, floatfmt=".1f"))


if __name__ == "__main__":
    main()
