"""Time and memory of training, estimated from two small steps on drawn input."""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch import nn

from segcore.data.mappers import build_train_mapper
from segcore.engine.setup import fit_to_machine

STRIDE = 32  # pixels, of the smallest features
SMALL = 128  # images of at most this side are measured as they are
TRIALS = 8
BATCH = 2  # images of a step; batch norm cannot do with one of the smallest size
STATES_OF_ADAM = 2  # values of the optimizer a parameter


@dataclass(frozen=True)
class TrainingCost:
    """Costs that are linear in the pixels of a batch, measured at two sizes.

    Attributes:
        device: "cpu" or "cuda".
        size: (height, width) of a training image by the config.
        pixels: (2,) of the batches measured.
        seconds, memory: (2,) of forward and backward of these; bytes are those of the whole
            process, or of the GPU, NaN where that cannot be known.
        state: bytes that the optimizer adds.
    """

    device: str
    size: tuple[int, int]
    pixels: tuple[float, float]
    seconds: tuple[float, float]
    memory: tuple[float, float]
    state: int

    def seconds_of_iteration(self, batch: int, pixels: float | None = None) -> float:
        """Return the time of a step of ``batch`` images in one process.

        Args:
            pixels: of an image; those of ``size`` by default.
        """
        return self._at(self.seconds, batch, pixels)

    def memory_of(self, batch: int, pixels: float | None = None) -> float:
        """Return the bytes that a process with ``batch`` images needs."""
        return self._at(self.memory, batch, pixels) + self.state

    def _at(self, values: tuple[float, float], batch: int, pixels: float | None) -> float:
        count = batch * (self.size[0] * self.size[1] if pixels is None else pixels)
        slope = max(0.0, (values[1] - values[0]) / (self.pixels[1] - self.pixels[0]))
        return max(values[0], values[1] + slope * (count - self.pixels[1]))


def training_size(cfg: CfgNode, photo_size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a training image from a photo of (height, width).

    Augmentations are random: the largest of some images counts.
    """
    mapper = build_train_mapper(cfg)
    sizes = []
    for _ in range(TRIALS):
        blank = np.zeros((*photo_size, 3), np.uint8)
        image = T.AugInput(blank, sem_seg=np.zeros(photo_size, np.uint8))
        mapper.augmentations(image)
        sizes.append(tuple(max(side, mapper.padded_size) for side in image.image.shape[:2]))
    return max(sizes, key=lambda size: size[0] * size[1])


def measure_training(cfg: CfgNode, photo_size: tuple[int, int], segments: int) -> TrainingCost:
    """Build the model with random weights and measure steps on images of noise.

    Args:
        cfg: with the classes of the data.
        photo_size: (height, width) of a typical photo.
        segments: number of segments of a typical photo.

    Raises:
        RuntimeError: there is too little memory.
    """
    cfg = cfg.clone()
    cfg.defrost()
    fit_to_machine(cfg)
    size = training_size(cfg, photo_size)
    small, large = _measured_sizes(size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(cfg).train()
        _step(model, small, segments, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)  # warm-up
        measured = [
            _measure(model, side, segments, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
            for side in (small, large)
        ]
    parameters = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    seconds, memory = zip(*measured, strict=True)
    pixels = BATCH * small[0] * small[1], BATCH * large[0] * large[1]
    device = model.device.type
    return TrainingCost(device, size, pixels, seconds, memory, STATES_OF_ADAM * parameters)


def available_memory(device: str) -> float:
    """Return the free bytes of the GPU or of this machine, NaN where that is unknown."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    fields = _fields("/proc/meminfo")
    available = 1024.0 * float(fields.get("MemAvailable", ["nan"])[0])
    try:
        limit = float(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no such limit
        return available
    return min(available, limit)


def _measured_sizes(size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return two sizes to measure at, which cost a fraction of ``size``."""
    fraction = 1.0 if max(size) <= SMALL else 0.5
    height, width = (max(2 * STRIDE, round(side * fraction / STRIDE) * STRIDE) for side in size)
    large = min(height, max(size[0], STRIDE)), min(width, max(size[1], STRIDE))
    return (max(STRIDE, large[0] // 2), max(STRIDE, large[1] // 2)), large


def _measure(
    model: nn.Module, size: tuple[int, int], segments: int, num_classes: int
) -> tuple[float, float]:
    """Return seconds and bytes of a step."""
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        _reset_peak()
    start = time.perf_counter()
    _step(model, size, segments, num_classes)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, float(torch.cuda.max_memory_allocated()) if on_gpu else _peak()


def _step(model: nn.Module, size: tuple[int, int], segments: int, num_classes: int) -> None:
    """Compute the gradients of images of noise, cut into ``segments`` strips."""
    count = max(1, min(segments, size[0]))
    rows = (torch.arange(size[0]) * count // size[0])[:, None].expand(size)
    instances = Instances(
        size,
        gt_classes=torch.arange(count) % num_classes,
        gt_masks=BitMasks(rows == torch.arange(count)[:, None, None]),
    )
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    model.zero_grad()
    sum(model([{"image": image, "instances": instances}] * BATCH).values()).backward()


def _reset_peak() -> None:
    """Let Linux forget the largest size of this process so far."""
    with suppress(OSError):  # the peak is then that of the whole life
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    return 1024.0 * float(_fields("/proc/self/status").get("VmHWM", ["nan"])[0])


def _fields(path: str) -> dict[str, list[str]]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name: values.split() for name, _, values in pairs}
