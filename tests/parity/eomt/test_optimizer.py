"""Learning rate and weight decay of every parameter, and the schedules by step."""

import torch
from detectron2.modeling import build_model
from torch import nn

from eomt.annealing import MaskAnnealing
from eomt.checkpoint import PREFIX
from eomt.checkpoint_names import to_official
from eomt.optimizer import PRETRAINED, build_two_stage_schedule
from parity.eomt.configs import is_dinov3, published_cfg
from parity.golden import parametrize_cases
from segcore.config import get_cfg
from segcore.solver import build_optimizer


@parametrize_cases("eomt", "eomt_optimizer_groups")
def test_optimizer_groups(case, comparison):
    for config, golden in case.info["configs"].items():
        cfg = published_cfg(config)
        cfg.MODEL.DEVICE = "meta"
        with torch.device("meta"):
            model = build_model(cfg)
        optimizer = build_optimizer(cfg, model)
        assert type(optimizer).__name__ == golden["optimizer"]
        assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == golden["clip_max_norm"]
        assert list(cfg.SOLVER.WARMUP_STAGES) == golden["warmup_steps"]

        names = {parameter: name for name, parameter in model.named_parameters()}
        groups = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                ours = names[parameter].removeprefix(PREFIX)
                for official in to_official(ours, dinov3=is_dinov3(config)):
                    groups[official] = group
        official = golden["one_group_per_parameter_name_lr_weight_decay"]
        assert groups.keys() == {name for name, *_ in official}
        for index, (name, lr, weight_decay) in enumerate(official):
            group = groups[name]
            comparison.close(f"{config} lr {name}", group["lr"] / lr, 1.0, 1e-12)
            comparison.close(f"{config} decay {name}", group["weight_decay"], weight_decay, 0.0)
            assert bool(group.get(PRETRAINED)) == (index < golden["encoder_parameters_first"])
        comparison.close(f"{config} betas", optimizer.defaults["betas"], golden["betas"], 0.0)
        comparison.close(f"{config} eps", optimizer.defaults["eps"], golden["eps"], 0.0)
    comparison.check()


@parametrize_cases("eomt", "eomt_schedule")
def test_schedule(case, comparison):
    for run in case.info["runs"]:
        cfg = get_cfg()
        cfg.SOLVER.MAX_ITER = run["total_steps"]
        cfg.SOLVER.WARMUP_STAGES = run["warmup_steps"]
        cfg.SOLVER.POLY_LR_POWER = run["power"]
        groups = [
            {"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0, PRETRAINED: pretrained}
            for pretrained in (True, False)
        ]
        schedule = build_two_stage_schedule(cfg, torch.optim.AdamW(groups))
        annealing = MaskAnnealing(run["start_steps"], run["end_steps"], run["power"])
        for step, *expected in run["rows_step_encoderfactor_otherfactor_probabilities"]:
            factors = [function(step) for function in schedule.lr_lambdas]
            probabilities = annealing.probabilities(step)
            name = f"{run['what']}, step {step}"
            comparison.close(f"{name}: factors", factors, expected[:2], 1e-12)
            comparison.close(f"{name}: probabilities", probabilities, expected[2:], 1e-6)
    comparison.check()
