"""Learning rate and weight decay of every parameter of published configurations, and schedules."""

import json

import numpy as np
import torch
from detectron2.modeling import build_model

from parity.golden import GOLDEN_ROOT, parametrize_cases
from parity.mask2former.model import published_cfg
from segcore.solver import build_lr_scheduler, build_optimizer


@parametrize_cases("mask2former", "optimizer_groups")
def test_optimizer_and_schedule(case, comparison):
    configs = {name: golden for name, golden in case.info.items() if isinstance(golden, dict)}
    for name, golden in configs.items():
        keys = json.loads((GOLDEN_ROOT / "mask2former" / f"keys_{name}.json").read_text())
        cfg = published_cfg(keys["upstream_config"])
        model = build_model(cfg)
        optimizer = build_optimizer(cfg, model)
        assert type(optimizer).__name__.startswith(golden["optimizer"])
        compare_parameters(comparison, name, optimizer, model, golden)

        scheduler = build_lr_scheduler(cfg, optimizer)
        base_lr = np.array(scheduler.base_lrs)
        for iteration, expected in golden["lr_of_last_group_at_iteration"]:
            scheduler.last_epoch = iteration
            last_group = int(base_lr.argmax())  # the head's, as upstream's last
            lr = scheduler.get_lr()[last_group]
            comparison.close(f"{name} rate at {iteration}", lr, expected, 0.0)

        parameters = list(model.parameters())
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1.0)
        optimizer.step()
        norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
        limit = golden["clip_max_norm"]
        comparison.close(f"{name} clipped norm", norm / limit, 1.0, 1e-3)
    comparison.check()


def compare_parameters(comparison, config: str, optimizer, model, golden: dict) -> None:
    """One value a parameter, whatever the grouping: upstream has a group each."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {
        names[parameter]: group for group in optimizer.param_groups for parameter in group["params"]
    }
    official = golden["one_group_per_parameter_in_this_order"]
    assert groups.keys() == {name for name, *_ in official}
    for name, lr, weight_decay in official:
        group = groups[name]
        comparison.close(f"{config} lr {name}", group["lr"], lr, 0.0)
        comparison.close(f"{config} decay {name}", group["weight_decay"], weight_decay, 0.0)
        comparison.close(f"{config} betas {name}", group["betas"], golden["betas"], 0.0)
        comparison.close(f"{config} eps {name}", group["eps"], golden["eps"], 0.0)
