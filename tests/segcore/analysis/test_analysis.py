"""Costs of models: held against fvcore, against products written out, and against publications."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from torch import nn

from segcore.analysis import measuring
from segcore.analysis.counting import count
from segcore.analysis.formulas import UNKNOWN_TO_FVCORE
from segcore.analysis.modules import sum_by_part
from segcore.analysis.program import analyze, main
from segcore.cli.analyze import build_parser
from segcore.config import get_cfg
from segcore.ops import ClusterNeighborhood, cluster_attention, ms_deform_attn
from small_models import SMALL_MODELS

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SMALL = [str(item) for pair in SMALL_MODELS.items() for item in pair]
FVCORE_NAMES = {
    "conv": "convolution",
    "linear": "matrix product",
    "matmul": "matrix product",
    "einsum": "matrix product",
    "addmm": "matrix product",
    "bmm": "matrix product",
    "batch_norm": "batch norm",
    "group_norm": "group norm",
    "layer_norm": "layer norm",
    "upsample_bilinear2d": "interpolation",
}


def load(path: str, *options: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / path))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *options])
    return cfg


class Network(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.network(images))


def by_operator(counts: Counter) -> Counter[str]:
    sums: Counter[str] = Counter()
    for (_, operator), value in counts.items():
        sums[operator] += value
    return sums


def test_equals_fvcore(monkeypatch):
    def without_operator(value, shapes, references, offsets, logits):
        zeros = offsets.new_zeros(1, offsets.shape[1], value.shape[2:].numel())
        return zeros + value.sum() + references.sum() + offsets.sum() + logits.sum()

    # Tracing, which fvcore does, takes no lists of sizes as the operator has them. It also leaves
    # out what no output depends on, so that there is a layer for each level.
    operator = "segcore.layers.ms_deform_attn.ms_deform_attn_with_logits"
    monkeypatch.setattr(operator, without_operator)
    cfg = load("quickstart/mask2former_R18.yaml", *SMALL, "MODEL.MASK_FORMER.DEC_LAYERS", "4")
    _, counts, size = analyze(cfg, (60, 90))
    assert size == (64, 96)
    ours = by_operator(counts.multiply_adds)
    network, images = Network(build_model(cfg).eval()), torch.zeros(1, 3, *size)
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        flops = FlopCountAnalysis(network, images).unsupported_ops_warnings(False)
        flops = flops.uncalled_modules_warnings(False).by_operator()
        activations = ActivationCountAnalysis(network, images).unsupported_ops_warnings(False)
        activations = activations.uncalled_modules_warnings(False).total()
    theirs: Counter[str] = Counter()
    for operator, value in flops.items():
        if value:
            theirs[FVCORE_NAMES[operator]] += value
    assert {name: n for name, n in ours.items() if name not in UNKNOWN_TO_FVCORE} == theirs
    assert counts.activations.total() == activations


class Operators(nn.Module):
    """One call of two operators of ours and of attention."""

    def network(self, images: torch.Tensor) -> None:
        value, locations = images.new_zeros(1, 30, 2, 8), images.new_zeros(1, 7, 2, 1, 4, 2)
        ms_deform_attn(value, [(5, 6)], locations, images.new_zeros(1, 7, 2, 1, 4))
        tokens, clusters = images.new_zeros(1, 24, 2, 8), torch.zeros(1, 24, 3, dtype=torch.int64)
        cluster_attention(
            tokens, tokens, tokens, images.new_zeros(1, 24, 2), ClusterNeighborhood(clusters, 8),
            images.new_zeros(2, 5), images.new_zeros(2), images.new_zeros(16),
            images.new_zeros(16),
        )  # fmt: skip
        query, key = images.new_zeros(1, 2, 7, 8), images.new_zeros(1, 2, 9, 8)
        nn.functional.scaled_dot_product_attention(query, key, key)


def test_operators_that_fvcore_does_not_know():
    model = Operators()
    counts = by_operator(count(model, model.network, (8, 8)).multiply_adds)
    assert counts == {
        "ms_deform_attn": 8 * (7 * 2 * 4) * 8,  # 8 a query, head, point and channel
        "cluster_attention": 24 * (3 * 8) * 2 * (8 + 8 + 5),  # member and head: q k, a v, bias
        "attention": 2 * 7 * 9 * (8 + 8),
    }


def test_published_figure_of_aff_mini():
    """With semantic inference and ten masks of full resolution, and without sampling, which fvcore
    does not count, it is the published 48.3 G (Ziwen et al., 2023, table 2)."""
    _, counts, _ = analyze(load("ade20k/semantic-segmentation/aff_mini_bs32_80k.yaml"), (512, 512))
    operators = by_operator(counts.multiply_adds)
    queries, classes, tokens, channels = 100, 150, (128 * 128, 64**2, 32**2, 16**2), 256
    full_masks = 10 * queries * tokens[0] * channels
    our_masks = queries * channels * (tokens[0] + 3 * sum(tokens[1:]))
    semantic_inference = classes * queries * 512 * 512
    published = (
        counts.multiply_adds.total()
        - operators["point_deform_attn"]
        + full_masks
        - our_masks
        + semantic_inference
    )
    assert published / 1e9 == pytest.approx(48.3, abs=0.1)


def test_sums_by_part():
    values = [("", 1.0), ("a", 2.0), ("a.b.c", 4.0), ("d.e", 8.0)]
    assert sum_by_part(values, 2) == {"": 15.0, "a": 6.0, "a.b": 4.0, "d": 8.0, "d.e": 8.0}


def test_program(capsys):
    config = str(CONFIGS / "quickstart/mask2former_R18.yaml")
    arguments = ["--config-file", config, "--size", "64x96", "--time", "--repeats", "1"]
    main(build_parser().parse_args([*arguments, "MODEL.DEVICE", "cpu", *SMALL]))
    text = capsys.readouterr().out
    assert re.search(r"^model +[\d.]+ +[\d.]+ +[\d.]+ +100.00$", text, re.MULTILINE)
    for part in ("backbone.res2", "sem_seg_head.pixel_decoder", "matrix product", "ms_deform_attn"):
        assert re.search(rf"^{part} ", text, re.MULTILINE)
    assert re.search(r"[\d.]+ s, peak of \d+ MiB beyond the model, on cpu", text)


def test_memory_is_not_negative(monkeypatch):
    """Where the system's count of pages lags behind."""
    monkeypatch.setattr(measuring, "reset_peak_resident_mebibytes", lambda: 100.0)
    monkeypatch.setattr(measuring, "peak_resident_mebibytes", lambda: 99.9)
    assert measuring.measure_mebibytes(lambda: None, torch.device("cpu")) == 0


@pytest.mark.parametrize("size", ["800", "0x5", "70000x3", "axb"])
def test_wrong_size(size, capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--config-file", "x", "--size", size])
    assert f"expected HEIGHTxWIDTH, such as 800x1088, got '{size}'" in capsys.readouterr().err
