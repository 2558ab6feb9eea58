"""Checkpoints of Transformers, read and written: the same outputs from the same file."""

import json
import re

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from mask2former.transformers_names import to_ours
from segcore.checkpoint import SafeCheckpointer
from segcore.checkpoint.transformers import EXPORTERS, WEIGHTS_FILE, write_transformers
from segcore.config import load_config
from segcore.errors import CheckpointError, ConfigError
from small_models import SMALL_MODELS
from tools import convert_checkpoint

transformers = pytest.importorskip(
    "transformers", reason="transformers, a development extra, is not installed"
)

BACKBONES = {
    "R50": {
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    },
    "Swin": {
        "MODEL.BACKBONE.NAME": "D2SwinTransformer",
        "MODEL.SWIN.EMBED_DIM": 16,
        "MODEL.SWIN.DEPTHS": [2, 1, 1, 1],
        "MODEL.SWIN.NUM_HEADS": [1, 1, 2, 2],
        "MODEL.SWIN.WINDOW_SIZE": 4,
    },
}
# Data sets of the published models of each task, with their numbers of classes and queries.
TASKS = {
    "panoptic": ("coco_2017_train_panoptic", 133, 10),
    "instance": ("coco_2017_train", 80, 10),
    "semantic": ("ade20k_sem_seg_train", 150, 6),
}


def config(backbone: str, task: str):
    name, num_classes, num_queries = TASKS[task]
    options = {
        **SMALL_MODELS,
        **BACKBONES[backbone],
        "MODEL.DEVICE": "cpu",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": num_classes,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": num_queries,
        "MODEL.MASK_FORMER.DEC_LAYERS": 5,  # more layers than feature levels
        "DATASETS.TRAIN": (name,),
    }
    pairs = [part for pair in options.items() for part in pair]
    return load_config("configs/_base_/mask2former_small.yaml", pairs)


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """The model in evaluation, with weights and statistics that all count."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not name.startswith("criterion."):
                is_scale = value.dim() == 1 and not name.endswith(("bias", "running_mean"))
                value.copy_(torch.rand(value.shape, generator=generator) * 0.2 - 0.1 + is_scale)
    return model.eval()


def assert_equal_outputs(ours, theirs) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        actual = ours.double().network(images)
        expected = theirs.double().eval()(pixel_values=images)
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(actual[0], expected.class_queries_logits, **close)
    torch.testing.assert_close(actual[1], expected.masks_queries_logits, **close)
    assert actual[1].std() > 1e-2  # the outputs depend on something


@pytest.fixture(scope="module", params=[(b, t) for b in BACKBONES for t in TASKS], ids="-".join)
def written(request, tmp_path_factory):
    """A model of ours, its config, and the folder that is written of it."""
    cfg = config(*request.param)
    model = randomized(build_model(cfg))
    folder = tmp_path_factory.mktemp("written") / "model"
    names = [f"class {index}" for index in range(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)]
    write_transformers(EXPORTERS.find("MaskFormer")(model.state_dict(), cfg, names), folder)
    return model, cfg, folder


def test_from_pretrained_takes_ours(written):
    ours, _, folder = written
    theirs, info = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["unexpected_keys"]
    # Not used: the norm after the last stage, counts of batches; computed: a table of indices.
    unneeded = re.compile(r"encoder\.swin\.layernorm|num_batches_tracked|relative_position_index")
    assert all(unneeded.search(name) for name in info["missing_keys"])
    assert theirs.config.id2label[3] == "class 3"
    # The names of its modules, which are others than those of its files in version 5.
    converted, state = to_ours(theirs.state_dict()), ours.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in converted.items())
    assert all(name.endswith("_index") for name in state.keys() - converted.keys())
    assert_equal_outputs(ours, theirs)


def test_ours_takes_what_save_pretrained_writes(written, tmp_path):
    _, cfg, folder = written
    settings = transformers.AutoConfig.from_pretrained(folder)
    theirs = randomized(transformers.Mask2FormerForUniversalSegmentation(settings))
    theirs.save_pretrained(tmp_path)
    ours = build_model(cfg).eval()
    checkpointer = SafeCheckpointer(ours, complete=True)
    checkpointer.load(str(tmp_path))
    assert checkpointer.report.source == str(tmp_path / WEIGHTS_FILE)
    assert not checkpointer.report.left_over
    assert_equal_outputs(ours, theirs)


def test_tool_writes_class_names(tmp_path):
    cfg = config("R50", "panoptic")
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    (tmp_path / "small.yaml").write_text(cfg.dump())
    arguments = [tmp_path / "model.pth", tmp_path / "folder", "--transformers"]
    assert convert_checkpoint.main(map(str, arguments)) == 2
    arguments += ["--config-file", tmp_path / "small.yaml"]
    assert convert_checkpoint.main([*map(str, arguments)]) == 0
    labels = json.loads((tmp_path / "folder" / "config.json").read_text())["id2label"]
    assert [*labels.values()] == MetadataCatalog.get("coco_2017_train_panoptic").stuff_classes
    transformers.Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "folder")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")
    assert processor.image_mean == pytest.approx([0.485, 0.456, 0.406])


def test_what_has_no_form_there():
    export = EXPORTERS.find("MaskFormer")
    cfg = config("Swin", "panoptic")
    cfg.MODEL.BACKBONE.NAME = "AutoFocusFormer"
    with pytest.raises(ConfigError, match=r"MODEL\.BACKBONE\.NAME: expected .* got AutoFocus"):
        feedforward = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear1.weight"
        export({feedforward: torch.ones(3, 4)}, cfg, [])
    cfg.MODEL.BACKBONE.NAME = "D2SwinTransformer"
    with pytest.raises(CheckpointError, match=r"backbone\.absolute_pos_embed: expected an entry"):
        export(
            {feedforward: torch.ones(3, 4), "backbone.absolute_pos_embed": torch.ones(1)}, cfg, []
        )


def test_parts_of_a_projection_are_missing():
    name = "model.transformer_module.decoder.layers.0.self_attn.q_proj.weight"
    with pytest.raises(CheckpointError, match=r"in_proj_weight: expected query, key and value"):
        to_ours({name: torch.ones(1)})
