"""Every configuration builds; those of Mask2Former are held against the published values."""

import ast
import itertools
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model

from segcore.config import get_cfg
from segcore.config.yaml_files import parse_config
from segcore.data.mappers import build_test_mapper, build_train_mapper

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
COMPLETE = sorted(path for path in CONFIGS.glob("*/**/*.yaml") if "_base_" not in path.parts)
PARTS = CONFIGS / "_base_"
DATA = sorted(PARTS.glob("datasets/*.yaml"))
DATA_KEYS = (
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
    "MODEL.CLASSIFIER.NUM_CLASSES",
)
PUBLISHED = [path for path in COMPLETE if path.name.startswith("maskformer2_")]

# folder -> classes, iterations, mapper, (semantic, instance, panoptic), shortest test edge
TASKS = {
    "coco/panoptic": (133, 368_750, "coco_panoptic_lsj", (1, 1, 1), 800),
    "coco/instance": (80, 368_750, "coco_instance_lsj", (0, 1, 0), 800),
    "ade20k/semantic": (150, 160_000, "mask_former_semantic", (1, 0, 0), 512),
    "ade20k/panoptic": (150, 160_000, "mask_former_panoptic", (1, 1, 1), 640),
    "ade20k/instance": (100, 160_000, "mask_former_instance", (0, 1, 0), 640),
    "cityscapes/semantic": (19, 90_000, "mask_former_semantic", (1, 0, 0), 1024),
    "cityscapes/panoptic": (19, 90_000, "mask_former_panoptic", (1, 1, 1), 1024),
    "cityscapes/instance": (8, 90_000, "mask_former_instance", (0, 1, 0), 1024),
    "mapillary-vistas/semantic": (65, 300_000, "mask_former_semantic", (1, 0, 0), 2048),
    "mapillary-vistas/panoptic": (65, 300_000, "mask_former_panoptic", (1, 0, 1), 2048),
}


def load(path: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(path), allow_unsafe=False)
    return cfg


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def task_of(path: Path) -> str:
    dataset, task = path.relative_to(CONFIGS).parts[:2]
    return f"{dataset}/{task.removesuffix('-segmentation')}"


@pytest.mark.parametrize("path", DATA, ids=name_of)
def test_parts_for_data_hold_data_only(path):
    config = parse_config(path.read_text(), str(path))
    values = [key for key in config.lines if not isinstance(config.get(key), dict)]
    assert not config.bases
    assert [k for k in values if not k.startswith("DATASETS.") and k not in DATA_KEYS] == []


def position(part: Path) -> int:
    """Position of a part in ``_BASE_``: backbone, data set, system, recipe of the system."""
    room = part.parent.name
    return 2 if part.parent == PARTS else {"backbones": 0, "datasets": 1}.get(room, 3)


@pytest.mark.parametrize("path", COMPLETE, ids=name_of)
def test_parts_have_one_order(path):
    bases = parse_config(path.read_text(), str(path)).bases
    parts = [part for base in bases if PARTS in (part := (path.parent / base).resolve()).parents]
    assert [position(part) for part in parts] == sorted(map(position, parts))


@pytest.mark.parametrize("path", COMPLETE, ids=name_of)
def test_every_configuration_builds(path):
    if "classification" in path.parts:
        pytest.importorskip("timm")
    cfg = load(path)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert any(parameter.requires_grad for parameter in model.parameters())
    if not cfg.DATASETS.TRAIN:  # custom data, of which a mapper may ask the ignored label
        cfg.DATASETS.TRAIN = ("ade20k_sem_seg_train",)
    assert build_train_mapper(cfg) and build_test_mapper(cfg)


def test_every_published_configuration_exists():
    assert len(PUBLISHED) == 47
    assert {task_of(path) for path in PUBLISHED} == set(TASKS)


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_task_values(path):
    cfg = load(path)
    classes, iterations, mapper, switches, test_size = TASKS[task_of(path)]
    if "swin_base" in path.name or "swin_large" in path.name:
        test_size = 640 if task_of(path) == "ade20k/semantic" else test_size
    if path.name.endswith("100ep.yaml"):
        iterations = 737_500
    test = cfg.MODEL.MASK_FORMER.TEST
    assert classes == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert iterations == cfg.SOLVER.MAX_ITER
    assert mapper == cfg.INPUT.DATASET_MAPPER_NAME
    assert (test.SEMANTIC_ON, test.INSTANCE_ON, test.PANOPTIC_ON) == switches
    assert test_size == cfg.INPUT.MIN_SIZE_TEST
    mapillary = path.parts[-3] == "mapillary-vistas" or "mapillary-vistas" in path.parts
    assert test.OBJECT_MASK_THRESHOLD == (0.0 if mapillary else 0.8)
    assert cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == (65 if mapillary else 255)


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_model_values(path):
    cfg = load(path)
    mask_former = cfg.MODEL.MASK_FORMER
    many_queries = "swin_large" in path.name and not task_of(path).endswith("semantic")
    assert mask_former.NUM_OBJECT_QUERIES == (200 if many_queries else 100)
    assert mask_former.DEC_LAYERS == 10 and cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS == 6
    sync_bn = "_R" in path.name and (
        task_of(path).startswith("cityscapes") or path.name.startswith("maskformer2_R101_bs16_160k")
    )
    assert cfg.MODEL.RESNETS.NORM == ("SyncBN" if sync_bn else "FrozenBN")
    poly = not task_of(path).startswith("coco")
    assert cfg.SOLVER.LR_SCHEDULER_NAME == ("WarmupPolyLR" if poly else "WarmupMultiStepLR")
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model"


def test_training_sizes_are_tenths_of_the_base():
    cfg = load(CONFIGS / "ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml")
    assert cfg.INPUT.MIN_SIZE_TRAIN == tuple(int(0.1 * k * 512) for k in range(5, 21))
    assert cfg.INPUT.CROP.SIZE == [512, 512] and cfg.INPUT.SIZE_DIVISIBILITY == 512


def leaves(node: CfgNode, prefix: str = "") -> dict[str, object]:
    """Values of a config by their full keys."""
    values = {}
    for name, value in node.items():
        key = prefix + name
        values |= leaves(value, f"{key}.") if isinstance(value, CfgNode) else {key: value}
    return values


def expand(key: str) -> list[str]:
    """Spell out the braces of a key: ``A.{B,C}`` is A.B and A.C."""
    parts = [part.split(",") for part in re.split(r"[{}]", key)]
    return ["".join(names) for names in itertools.product(*parts)]


def documented_defaults() -> list[tuple[str, object]]:
    """Keys and defaults of the tables in docs/configs.md; a heading names the section of a key."""
    page = (
        (CONFIGS.parent / "docs/configs.md").read_text().partition("\n## Keys of this project")[2]
    )
    rows, section = [], ""
    for line in page.splitlines():
        if heading := re.match(r"### `([\w.]+)`(.*)", line):
            section = "" if heading[2].startswith(",") else f"{heading[1]}."
        if row := re.match(r"\| `(.+?)` \| `(.+?)` \| ", line):
            rows += [(section + key, ast.literal_eval(row[2])) for key in expand(row[1])]
    return rows


def test_page_of_keys_agrees_with_the_code():
    rows, defaults = documented_defaults(), leaves(get_cfg())
    page = dict(rows)
    assert len(page) == len(rows), "a key stands in the page twice"
    assert page.keys() - defaults.keys() == set(), "keys that do not exist"
    ours = defaults.keys() - leaves(get_detectron2_cfg()).keys()
    assert ours - page.keys() == set(), "keys that the page lacks"
    assert page == {key: defaults[key] for key in page}
