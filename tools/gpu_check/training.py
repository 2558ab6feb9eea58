"""One training step of each system's quickstart model, forward, losses and backward, on one drawn
photo, or a clip of it for a model of videos, in float32 and under autocast in both half types:
total loss and norm of all gradients beside those of the CPU in float32. Random numbers are drawn on
the CPU, so that every device has the same points."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from tools.gpu_check.results import Check, checks

SIZE = (128, 128)  # the input of the EoMT of the quickstart
TARGETS = 6
TOLERANCES = {torch.float32: 1e-2, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Relative: a rounding may match another query or choose another point."""

RANDOM = {torch.rand, torch.rand_like, torch.randn, torch.randn_like, torch.randint, torch.randperm}


class RandomOnCpu(TorchFunctionMode):
    """Have random numbers drawn on the CPU and copied to the device that is asked for."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function not in RANDOM:
            return function(*args, **kwargs)
        device = kwargs.pop("device", None)
        if args and isinstance(args[0], torch.Tensor):  # ..._like
            device = device or args[0].device
            args = (args[0].cpu(), *args[1:])
        return function(*args, **kwargs, device="cpu").to(device or torch.get_default_device())


class Step(NamedTuple):
    loss: float
    gradient_norm: float


def run(device: str) -> Iterator[Check]:
    from segcore.config import load_projects
    from segcore.quickstart import QUICKSTARTS

    torch.backends.cudnn.allow_tf32 = False  # float32 is to be that of the CPU
    load_projects()
    for system in QUICKSTARTS:
        yield from checks(_claims(system, device))


def _claims(system: str, device: str) -> Iterator[tuple[str, Callable[[], str]]]:
    model, photo = build(system)
    expected = train(model, photo, "cpu", torch.float32)
    for dtype in TOLERANCES:
        title = f"{system}, {str(dtype).removeprefix('torch.')}"
        yield title, partial(_compare, model, photo, device, dtype, expected)


def build(system: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return the model of a system's quickstart with initial weights, on the CPU, and its input."""
    from benchmarks.models import STUFF, THINGS, photo
    from detectron2.modeling import build_model

    from segcore.config import get_cfg
    from segcore.quickstart import QUICKSTARTS

    quickstart = QUICKSTARTS.find(system)
    cfg = get_cfg()
    cfg.merge_from_file(str(quickstart.config_file))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", THINGS + STUFF])
    torch.manual_seed(0)
    inputs = photo(SIZE, TARGETS)
    if quickstart.data is not None:  # videos
        inputs = clip(inputs, cfg.INPUT.SAMPLING_FRAME_NUM)
    return build_model(cfg).train(), inputs


def clip(photo: dict[str, Any], frames: int) -> dict[str, Any]:
    """Return a video in which nothing moves."""
    instances = photo["instances"]
    instances.gt_ids = torch.arange(len(instances))
    return {"image": [photo["image"]] * frames, "instances": [instances] * frames}


def train(model: torch.nn.Module, photo: dict[str, Any], device: str, dtype: torch.dtype) -> Step:
    """Do forward, losses and backward on a copy of the model."""
    model = copy.deepcopy(model).to(device)
    torch.manual_seed(0)
    with RandomOnCpu(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
        loss = sum(model([photo]).values())
    loss.backward()
    norms = [p.grad.float().norm() for p in model.parameters() if p.grad is not None]
    return Step(loss.item(), torch.stack(norms).norm().item())


def _compare(model, photo, device: str, dtype: torch.dtype, expected: Step) -> str:
    step = train(model, photo, device, dtype)
    for what, value, theirs in zip(Step._fields, step, expected, strict=True):
        difference = abs(value - theirs) / abs(theirs)
        assert difference <= TOLERANCES[dtype], f"{what} {value:.5g}, on the CPU {theirs:.5g}"
    return f"loss {step.loss:.5g} (CPU {expected.loss:.5g}), gradients {step.gradient_norm:.5g}" + (
        f" (CPU {expected.gradient_norm:.5g})"
    )
