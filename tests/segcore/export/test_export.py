"""Exported programs give the model's results; what cannot be exported says why."""

from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from detectron2.modeling import build_model

from compile_checks import on_request
from segcore.config import get_cfg
from segcore.errors import ConfigError
from segcore.export import ExportedModel, export_program, write_program
from segcore.export.checking import Difference, compare
from segcore.export.onnx import to_onnx
from small_models import SMALL_MODELS

BASES = Path(__file__).resolve().parents[3] / "configs/_base_"
TINY = {
    **SMALL_MODELS,
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "PyramidVisionTransformerV2",
    "MODEL.PVT.EMBED_DIMS": [8, 8, 16, 16],
    "MODEL.PVT.NUM_HEADS": [1, 1, 2, 2],
    "MODEL.PVT.DEPTHS": [1, 1, 1, 1],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "TEST.DETECTIONS_PER_IMAGE": 6,
}
MERGING = "MODEL.PANOPTIC_MERGING.STRATEGY"
RESULTS = (
    "semantic_map",
    "panoptic_map",
    "segment_classes",
    "instance_masks",
    "instance_classes",
    "instance_scores",
)
ALL_RESULTS = {
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": True,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": True,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.2,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.3,
}


def build(base: str = "mask2former_small", options: dict = MappingProxyType({})):
    cfg = get_cfg()
    cfg.merge_from_file(str(BASES / f"{base}.yaml"))
    settings = TINY | dict(options)
    cfg.merge_from_list([str(part) for pair in settings.items() for part in pair])
    torch.manual_seed(0)
    return build_model(cfg).eval()


@torch.no_grad()
def confident(model):
    """Sure of classes and masks, so that there are segments, of things and stuff."""
    model.result_maker.__dict__["thing_ids"] = frozenset({0, 1})
    predictor = model.sem_seg_head.predictor
    predictor.class_embed.weight.mul_(5)
    predictor.mask_embed.layers[-1].weight.mul_(3)
    return model


def assert_close(differences: list[Difference]) -> None:
    """Floats are equal to rounding, maps but for pixels between two segments."""
    assert differences
    for name, largest, share in differences:
        assert (largest or 0) < 1e-4, name
        assert (share or 0) < 0.01, name


@pytest.fixture(scope="module")
def with_results() -> ExportedModel:
    return ExportedModel(confident(build(options=ALL_RESULTS))).eval()


@pytest.fixture(scope="module")
def dynamic_program(with_results):
    return export_program(with_results, (70, 100), dynamic=True)


@pytest.fixture(scope="module")
def network_program():
    model = ExportedModel(build(), normalize=False, outputs="network")
    return model, export_program(model, (64, 96))


@torch.no_grad()
def test_results_are_the_models(with_results):
    image = torch.randint(0, 256, (3, 90, 75), dtype=torch.uint8)
    expected = with_results.model([{"image": image}])[0]
    results = {name: output[0] for name, output in with_results.named(image[None]).items()}
    ids, segments = expected["panoptic_seg"]
    assert len(segments) > 1
    torch.testing.assert_close(results["panoptic_map"], ids.long(), rtol=0, atol=0)
    classes = results["segment_classes"]
    assert classes[classes >= 0].tolist() == [segment["category_id"] for segment in segments]
    assert torch.equal(results["semantic_map"], expected["sem_seg"].argmax(0))
    instances = expected["instances"]
    scores, order = results["instance_scores"].sort(descending=True, stable=True)
    count = len(instances)
    torch.testing.assert_close(scores[:count], instances.scores)
    assert not scores[count:].any()
    assert torch.equal(results["instance_classes"][order][:count], instances.pred_classes)
    assert torch.equal(results["instance_masks"][order][:count], instances.pred_masks)


@torch.no_grad()
@pytest.mark.parametrize("size", [(70, 100), (64, 96), (101, 67)])
def test_one_program_for_every_size(with_results, dynamic_program, size):
    images = torch.randint(0, 256, (1, 3, *size)).float()
    for expected, got in zip(with_results(images), dynamic_program.module()(images), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_onnx(with_results, dynamic_program, tmp_path):
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    path = tmp_path / "model.onnx"
    write_program(
        dynamic_program, path, "onnx", output_names=with_results.fields, metadata='{"a": 1}'
    )
    for size in ((64, 96), (101, 67)):
        assert_close(compare(path, "onnx", with_results, (1, 3, *size)))
    model = onnx.load(path)
    assert tuple(output.name for output in model.graph.output) == RESULTS
    assert {prop.key: prop.value for prop in model.metadata_props}["segcore.json"] == '{"a": 1}'
    assert {node.domain for node in model.graph.node} == {""}  # standard operators alone


class Rounded(torch.nn.Module):
    """As many zeros as there are sevens in the length, rounded up."""

    def forward(self, x):
        return x.new_zeros(-(-x.shape[0] // 7))


def test_onnx_divides_negative_sizes_as_python_does(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    length = ({0: torch.export.Dim("length", min=8)},)
    program = torch.export.export(Rounded(), (torch.zeros(20),), dynamic_shapes=length)
    to_onnx(program, ("zeros",)).save(tmp_path / "rounded.onnx")
    session = runtime.InferenceSession(tmp_path / "rounded.onnx")
    for count in (13, 14, 15):
        (zeros,) = session.run(None, {"images": torch.zeros(count).numpy()})
        assert len(zeros) == len(Rounded()(torch.zeros(count)))


@pytest.mark.parametrize("standard_operators", [False, True])
def test_program_of_pytorch(network_program, tmp_path, standard_operators):
    """With our operators, or with those that PyTorch alone runs."""
    model, program = network_program
    path = tmp_path / "model.pt2"
    write_program(
        program,
        path,
        "torch_export",
        output_names=model.fields,
        standard_operators=standard_operators,
    )
    graphs = [
        module.graph
        for module in torch.export.load(path).graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
    ]
    ours = any("segcore" in str(node.target) for graph in graphs for node in graph.nodes)
    assert ours != standard_operators
    assert_close(compare(path, "torch_export", model, (1, 3, 64, 96)))


@on_request
def test_program_of_aotinductor(network_program, tmp_path):
    model, program = network_program
    path = tmp_path / "model.pt2"
    write_program(program, path, "aoti", output_names=model.fields)
    assert_close(compare(path, "aoti", model, (1, 3, 64, 96)))


def test_autofocusformer_as_onnx(tmp_path):
    """Sorting, nearest neighbors and exponents of numbers in standard operators."""
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    model = ExportedModel(
        build(options={"MODEL.BACKBONE.NAME": "AutoFocusFormer"}),
        normalize=False,
        outputs="network",
    )
    program = export_program(model, (160, 192))
    path = tmp_path / "model.onnx"
    write_program(program, path, "onnx", output_names=model.fields)
    assert_close(compare(path, "onnx", model, (1, 3, 160, 192)))


@pytest.mark.parametrize(
    ("base", "options", "reason"),
    [
        (
            "panoptic_segformer_small",
            {"MODEL.PANOPTIC_SEGFORMER.IN_FEATURES": ["res3", "res4", "res5"]},
            "no class and mask logits",
        ),
        ("eomt_small", {}, "pads or cuts"),
        ("mask2former_small", {**ALL_RESULTS, MERGING: "mask_wise"}, "mask-wise merging"),
    ],
)
def test_results_that_cannot_be_exported(base, options, reason):
    model = build(base, options)
    with pytest.raises(ConfigError, match=rf"{type(model).__name__} cannot be exported.*{reason}"):
        ExportedModel(model)
    ExportedModel(model, outputs="network")


def test_bad_arguments(with_results, dynamic_program, tmp_path):
    network = ExportedModel(with_results.model, normalize=False)
    with pytest.raises(ConfigError, match=r"size: expected .* multiples of 32, got 70x100"):
        export_program(network, (70, 100))
    with pytest.raises(ConfigError, match=r"outputs: expected one of .*'maps'"):
        ExportedModel(with_results.model, outputs="maps")
    with pytest.raises(ConfigError, match=r"model: expected .* segments images, got Rounded"):
        ExportedModel(Rounded())
    with pytest.raises(ConfigError, match=r"model\.pt: expected a name that ends in \.onnx"):
        write_program(dynamic_program, tmp_path / "model.pt", "onnx", output_names=())
    with pytest.raises(ConfigError, match=r"format: expected one of onnx, .*, got tflite"):
        write_program(dynamic_program, tmp_path / "model.pt", "tflite", output_names=())
    assert not list(tmp_path.iterdir())
