"""Tensors beyond 2^31 bytes, and beyond 2^31 elements where the GPU has the memory: one image many
times over, whose outputs and gradients must be those of the image alone, the first like the last.
On the CPU the same with a few images."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from segcore.ops import ClusterNeighborhood
from tools.gpu_check import cases
from tools.gpu_check.cases import PARAMETERS, Arguments
from tools.gpu_check.results import Check, Unavailable, checks

SIZES: dict[str, dict[str, Any]] = {
    "ms_deform_attn": {"heads": 8, "channels": 32, "queries": 4000,
                       "spatial_shapes": ((160, 160),)},
    "ms_deform_attn_with_logits": {"heads": 8, "channels": 32, "queries": 4000,
                                   "spatial_shapes": ((160, 160),)},
    "cluster_attention": {"tokens": 16384, "heads": 8, "channels": 32, "clusters_per_token": 4},
    "neighborhood_merge": {"tokens": 16384, "channels": 256, "queries": 4096, "size": 9},
    "point_gather": {"tokens": 16384, "channels": 256, "queries": 4096},
    "point_deform_attn": {"heads": 8, "channels": 32, "level_sizes": (16384,), "queries": 2048,
                          "canvas": (128, 128)},
}  # fmt: skip
DTYPE = torch.float16
TOLERANCE = 2e-3  # relative: roundings of float16
COPIES = 12  # room for inputs, gradients, float32 sums and what PyTorch makes of them


def run(device: str) -> Iterator[Check]:
    targets = {"bytes": 2**31, "elements": 2**32} if device == "cuda" else {"images": 2**25}
    for name in SIZES:
        for what, target in targets.items():
            yield from checks([(f"{name}, {what}", partial(_repeat, name, target, device))])


def _repeat(name: str, target: int, device: str) -> str:
    image = cases.make_arguments(name, DTYPE, device, batch=1, **SIZES[name])
    largest = max(tensor.nbytes for tensor in image.values() if isinstance(tensor, torch.Tensor))
    images = target // largest + 1
    _need_memory(COPIES * images * largest, device)
    expected = cases.run(cases.operator(name), image)
    results = cases.run(cases.operator(name), _repeated(image, images))
    for key, values in results.items():
        once = expected[key].double()
        if key in PARAMETERS:
            _assert_close(key, values.double() / images, once)
            continue
        for i in (0, images // 2, images - 1):
            _assert_close(f"{key} of image {i}", values[i].double(), once[0])
    return f"{images} images, {images * largest / 2**30:.2f} GiB the largest tensor"


def _repeated(image: Arguments, images: int) -> Arguments:
    def repeated(value: Any) -> Any:
        if isinstance(value, ClusterNeighborhood):
            return ClusterNeighborhood(repeated(value.clusters), value.cluster_size)
        return value.repeat(images, *[1] * (value.dim() - 1))

    kept = {"spatial_shapes", "canvas", *PARAMETERS}
    return {
        name: value if name in kept or value is None else repeated(value)
        for name, value in image.items()
    }


def _need_memory(size: int, device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        if free < size:
            raise Unavailable(f"needs {size / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free")


def _assert_close(name: str, values: torch.Tensor, expected: torch.Tensor) -> None:
    difference = float((values - expected).abs().max() / expected.abs().max())
    assert difference <= TOLERANCE, f"{name} differs by {difference:.1e}"
