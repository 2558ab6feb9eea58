"""Parameter groups, clipping inside the step, schedules, resuming."""

import copy
import math

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from torch import nn

from segcore.config import add_segcore_config
from segcore.solver import build_lr_scheduler, build_optimizer, clip_full_model, parameter_groups


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_segcore_config(cfg)
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.WEIGHT_DECAY = 0.05
    cfg.SOLVER.MAX_ITER = 100
    cfg.SOLVER.STEPS = (50, 80)
    cfg.SOLVER.WARMUP_ITERS = 0
    return cfg


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.backbone.relative_position_bias_table = nn.Parameter(torch.zeros(2))
        self.backbone.absolute_pos_embed = nn.Parameter(torch.zeros(2))
        self.backbone[2].requires_grad_(False)
        self.head = nn.Linear(4, 2)
        self.shared = self.head
        self.norm = nn.GroupNorm(1, 4)
        self.query = nn.Embedding(3, 4)
        self.level_embed = nn.Parameter(torch.zeros(3))


def hyperparameters(optimizer, model) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_learning_rate_and_weight_decay_of_each_parameter(cfg):
    model = Toy()
    assert hyperparameters(build_optimizer(cfg, model), model) == {
        "backbone.0.weight": (pytest.approx(0.01), 0.05),
        "backbone.0.bias": (pytest.approx(0.01), 0.05),
        "backbone.1.weight": (pytest.approx(0.01), 0.0),
        "backbone.1.bias": (pytest.approx(0.01), 0.0),
        "backbone.relative_position_bias_table": (pytest.approx(0.01), 0.0),
        "backbone.absolute_pos_embed": (pytest.approx(0.01), 0.0),
        "head.weight": (0.1, 0.05),
        "head.bias": (0.1, 0.05),
        "norm.weight": (0.1, 0.0),
        "norm.bias": (0.1, 0.0),
        "query.weight": (0.1, 0.0),
        "level_embed": (0.1, 0.05),
    }


def test_weight_decay_of_one_dimension_goes_first(cfg):
    cfg.SOLVER.WEIGHT_DECAY_1D = 0.0
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.3
    model = Toy()
    values = hyperparameters(build_optimizer(cfg, model), model)
    decaying = {name for name, (_, weight_decay) in values.items() if weight_decay}
    assert decaying == {"backbone.0.weight", "head.weight"}


def test_weight_decay_keys(cfg):
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.3
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.4
    model = Toy()
    values = hyperparameters(build_optimizer(cfg, model), model)
    assert values["norm.bias"][1] == 0.3
    assert values["query.weight"][1] == 0.4
    assert values["backbone.absolute_pos_embed"][1] == 0.0


def test_all_parameters_can_decay(cfg):
    solver = cfg.SOLVER
    solver.WEIGHT_DECAY_NORM = solver.WEIGHT_DECAY_EMBED = solver.WEIGHT_DECAY_POSITION = 0.05
    model = Toy()
    values = hyperparameters(build_optimizer(cfg, model), model)
    assert {weight_decay for _, weight_decay in values.values()} == {0.05}


def test_learning_rate_by_parts_of_the_name(cfg):
    cfg.SOLVER.LR_MULTIPLIERS = [["head.w", 0.5], ["head", 0.25], ["backbone.absolute", 3]]
    model = Toy()
    values = hyperparameters(build_optimizer(cfg, model), model)
    rates = {name: pytest.approx(0.1) for name in values}
    rates |= {name: pytest.approx(0.01) for name in values if "backbone" in name}
    rates |= {"head.weight": pytest.approx(0.05), "head.bias": pytest.approx(0.025)}
    rates["backbone.absolute_pos_embed"] = pytest.approx(0.3)
    assert {name: lr for name, (lr, _) in values.items()} == rates


def test_multipliers_survive_a_config_file(cfg, tmp_path):
    file = tmp_path / "solver.yaml"
    file.write_text('VERSION: 2\nSOLVER:\n  LR_MULTIPLIERS: [["level", 0.1], ["query", 0.1]]\n')
    cfg.merge_from_file(str(file))
    model = Toy()
    values = hyperparameters(build_optimizer(cfg, model), model)
    slow = {name for name, (lr, _) in values.items() if lr == pytest.approx(0.01)}
    assert {"level_embed", "query.weight"} == {n for n in slow if "backbone" not in n}


@pytest.mark.parametrize("pair", ["backbone", ["backbone"], [0.1, "backbone"], ["backbone", "x"]])
def test_bad_multiplier(cfg, pair):
    cfg.SOLVER.LR_MULTIPLIERS = [pair]
    with pytest.raises(ValueError, match=r"SOLVER.LR_MULTIPLIERS: expected pairs .* got"):
        build_optimizer(cfg, Toy())


def test_a_norm_inside_a_norm_is_not_directly_owned(cfg):
    class Outer(nn.LayerNorm):
        def __init__(self) -> None:
            super().__init__(4)
            self.inner = nn.Linear(4, 4)

    model = nn.Sequential(Outer())
    values = hyperparameters(build_optimizer(cfg, model), model)
    assert values["0.weight"][1] == 0.0
    assert values["0.inner.weight"][1] == 0.05


def test_groups_are_few(cfg):
    groups = parameter_groups(cfg, Toy())
    assert len(groups) == 4
    assert sum(len(group["params"]) for group in groups) == 12


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_optimizer_by_name(cfg, name):
    cfg.SOLVER.OPTIMIZER = name
    cfg.SOLVER.MOMENTUM = 0.8
    cfg.SOLVER.NESTEROV = True
    optimizer = build_optimizer(cfg, Toy())
    group = optimizer.param_groups[0]
    if name == "SGD":
        assert isinstance(optimizer, torch.optim.SGD)
        assert group["momentum"] == 0.8 and group["nesterov"]
    else:
        assert isinstance(optimizer, torch.optim.AdamW)
        assert group["betas"] == (0.9, 0.999) and group["eps"] == 1e-8


def test_unknown_optimizer(cfg):
    cfg.SOLVER.OPTIMIZER = "ADAM"
    with pytest.raises(
        ValueError, match=r"SOLVER.OPTIMIZER: expected one of ADAMW, SGD, got 'ADAM'"
    ):
        build_optimizer(cfg, Toy())


def test_nothing_to_train(cfg):
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(cfg, nn.Linear(2, 2).requires_grad_(False))


def sgd_with_clipping(cfg, clip_type, value, model):
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.BASE_LR = 1.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    cfg.SOLVER.MOMENTUM = 0.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = value
    return build_optimizer(cfg, model)


def step_length(optimizer, model) -> list[float]:
    """Change of each parameter; at rate 1 without decay it is the clipped gradient."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    return [
        (parameter - old).norm().item()
        for parameter, old in zip(model.parameters(), before, strict=True)
    ]


@pytest.mark.parametrize(
    ("clip_type", "value", "expected"),
    [
        ("full_model", 1.0, [0.6, 0.8]),  # norm 5 over both -> 1
        ("full_model", 10.0, [3.0, 4.0]),
        ("full_model", 0.0, [3.0, 4.0]),  # not positive: no clipping
        ("norm", 1.0, [1.0, 1.0]),
        ("value", 0.5, [0.5, 0.5]),
    ],
)
def test_clipping_inside_the_step(cfg, clip_type, value, expected):
    model = nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    optimizer = sgd_with_clipping(cfg, clip_type, value, model)
    model[0].grad, model[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert step_length(optimizer, model) == pytest.approx(expected, rel=1e-4)


def test_clipping_can_be_off(cfg):
    model = nn.ParameterList([torch.zeros(1)])
    optimizer = sgd_with_clipping(cfg, "full_model", 1.0, model)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = build_optimizer(cfg, model)
    model[0].grad = torch.tensor([3.0])
    assert step_length(optimizer, model) == pytest.approx([3.0])


def test_clipping_spans_groups_and_skips_parameters_without_gradient(cfg):
    model = Toy()
    optimizer = sgd_with_clipping(cfg, "full_model", 1.0, model)
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    optimizer = build_optimizer(cfg, model)
    model.head.weight.grad = torch.full_like(model.head.weight, 3.0)
    model.backbone[0].bias.grad = torch.full_like(model.backbone[0].bias, 4.0)
    moved = torch.tensor(step_length(optimizer, model))
    assert moved.norm().item() == pytest.approx(1.0, rel=1e-4)
    assert (moved > 0).sum() == 2


def test_the_gradient_scaler_unscales_before_clipping():
    model = nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)  # not fused, as on a GPU
    clip_full_model(optimizer, 1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(3 * model[0].sum() + 4 * model[1].sum()).backward()
    before = [parameter.detach().clone() for parameter in model]
    scaler.step(optimizer)
    moved = [(old - new).item() for new, old in zip(model, before, strict=True)]
    assert moved == pytest.approx([0.6, 0.8], rel=1e-4)


def test_fused_step_equals_plain_step(cfg):
    models = [nn.Linear(5, 7).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        build_optimizer(cfg, models[0]),
        torch.optim.AdamW(models[1].parameters(), lr=0.1),
    ]
    optimizers[1].param_groups[0]["weight_decay"] = 0.05
    assert optimizers[0].param_groups[0]["fused"]
    data = torch.randn(4, 5, dtype=torch.float64)
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(data).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=1e-10, atol=1e-12)


def learning_rates(cfg, iterations) -> list[float]:
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_poly(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    rates = learning_rates(cfg, 100)
    assert rates == pytest.approx([0.1 * (1 - i / 100) ** 0.9 for i in range(100)])


@pytest.mark.parametrize("method", ["linear", "constant"])
def test_poly_with_warmup_and_constant_ending(cfg, method):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.WARMUP_ITERS = 10
    cfg.SOLVER.WARMUP_FACTOR = 0.2
    cfg.SOLVER.WARMUP_METHOD = method
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.3
    rates = learning_rates(cfg, 100)
    for i, rate in enumerate(rates):
        poly = (1 - i / 100) ** 0.9
        if i < 10:
            warmup = 0.2 if method == "constant" else 0.2 + 0.8 * i / 10
            assert rate == pytest.approx(0.1 * warmup * poly)
        else:
            assert rate == pytest.approx(0.1 * max(poly, 0.3))
    assert rates[0] < 0.03  # the ending does not lift the warm-up
    assert rates[-1] == pytest.approx(0.03)


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_ends_above_zero(cfg, warmup):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.BASE_LR_END = 0.02
    cfg.SOLVER.WARMUP_ITERS = warmup
    cfg.SOLVER.WARMUP_FACTOR = 0.001
    rates = learning_rates(cfg, 100)
    cosine = [0.02 + 0.04 * (1 + math.cos(math.pi * i / 100)) for i in range(100)]
    assert rates[warmup:] == pytest.approx(cosine[warmup:])
    ramp = [0.0001 + (cosine[warmup] - 0.0001) * i / warmup for i in range(warmup)]
    assert rates[:warmup] == pytest.approx(ramp)


def test_training_shorter_than_the_warmup(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.WARMUP_ITERS = 1000
    rates = learning_rates(cfg, 100)
    assert all(0 <= rate <= 0.1 for rate in rates)


def test_multistep_is_detectron2s(cfg):
    rates = learning_rates(cfg, 100)
    assert rates[49:51] == pytest.approx([0.1, 0.01])
    assert rates[79:81] == pytest.approx([0.01, 0.001])


def test_bad_schedule(cfg):
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.WARMUP_METHOD = "burnin"
    with pytest.raises(ValueError, match=r"SOLVER\.WARMUP_METHOD: expected 'linear' or 'constant'"):
        build_lr_scheduler(cfg, optimizer)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupSineLR"
    with pytest.raises(ValueError, match="WarmupSineLR"):
        build_lr_scheduler(cfg, optimizer)


@pytest.mark.parametrize("scheduler", ["WarmupPolyLR", "WarmupMultiStepLR"])
def test_resumed_training_is_the_same(cfg, scheduler):
    cfg.SOLVER.LR_SCHEDULER_NAME = scheduler
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    data = torch.randn(8, 4)

    def build():
        model = Toy()
        optimizer = build_optimizer(cfg, model)
        return model, optimizer, build_lr_scheduler(cfg, optimizer)

    def train(parts, steps):
        model, optimizer, scheduler = parts
        for _ in range(steps):
            optimizer.zero_grad()
            model.norm(model.head(data) @ model.query.weight[:2]).square().sum().backward()
            optimizer.step()
            scheduler.step()

    first = build()
    train(first, 5)
    second = build()
    for new, old in zip(second, first, strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    train(first, 5)
    train(second, 5)
    for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert first[2].get_last_lr() == second[2].get_last_lr()
