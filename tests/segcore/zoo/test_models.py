"""The rows of the systems: names, configurations, the page; every row of the authors' tables."""

import json
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import segcore
from segcore.config.yaml_files import read_config_files
from segcore.config_names import CONFIGS_FOLDER
from segcore.errors import ConfigError
from segcore.zoo import find_model, published_models
from segcore.zoo.page import with_tables

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT.parent / "shared" / "data" / "published_models.json"
MODELS = published_models()
# Names of official configurations that are other names here.
RENAMED = {
    "mapillary-vistas/*/maskformer_R50_bs16_300k.yaml": "maskformer2_R50_bs16_300k.yaml",
    "ade20k/*/maskformer2_R101_bs16_90k.yaml": "maskformer2_R101_bs16_160k.yaml",
}
METRICS = {"PQ(s.s.)": "PQ", "acc@1": "top-1", "acc@5": "top-5"}
FIGURES = {"PQ", "AP", "Boundary AP", "AP50", "mIoU", "mIoU (ms+flip)", *METRICS}


def our_config(official: str) -> str:
    """The configuration of ours that stands for an official one."""
    names = [name for pattern, name in RENAMED.items() if fnmatchcase(official, pattern)]
    return str(Path(official).with_name(names[0])) if names else official


def test_number_of_models():
    systems = Counter(model.system for model in MODELS.values())
    assert systems == {"mask2former": 59, "autofocusformer": 28, "panoptic_segformer": 5}
    tasks = Counter(model.task for model in MODELS.values())
    assert (tasks["panoptic"], tasks["instance"], tasks["semantic"]) == (26, 25, 21)
    assert (tasks["video"], tasks["classification"]) == (12, 8)


def test_only_configurations_of_videos_may_be_missing():
    without = [model for model in MODELS.values() if not model.config_file.is_file()]
    assert {model.task for model in without} <= {"video"}
    assert not {model.name for model in without} & {*segcore.list_models()}


@pytest.mark.parametrize("name", segcore.list_models())
def test_configuration_is_of_the_data_set_task_and_backbone(name):
    model = find_model(name)
    folder, task = model.config.split("/")[:2]
    assert folder.replace("_", "-") == model.dataset.removesuffix("22k")
    if model.task != "video":
        assert task.removesuffix("-segmentation") == model.task
    stem = model.config_file.stem.lower().replace("_", "-").replace("swin-l-", "swin-large-")
    for word in model.name.split("/")[3].split("-"):
        assert word in stem, "the variant is another"
    files = read_config_files(str(model.config_file))
    assert any(model.system in str(file.source).split("configs")[-1] for file in files)
    assert bool(model.figures) != (model.dataset == "imagenet22k")


def test_addresses():
    """One file stands for one model, but for the one that the authors' table names twice."""
    usable = [model for model in MODELS.values() if not model.refusal]
    assert len({model.url for model in usable}) == len(usable) == 91
    (refused,) = (model for model in MODELS.values() if model.refusal)
    assert refused.name == "autofocusformer/cityscapes/instance/aff-base"
    assert refused.url == MODELS["autofocusformer/cityscapes/panoptic/aff-base"].url
    hosts = {model.url.split("/")[2] for model in usable}
    assert hosts == {"dl.fbaipublicfiles.com", "docs-assets.developer.apple.com", "github.com"}


def test_every_row_of_the_authors_tables():
    if not TABLE.is_file():
        pytest.skip("the table of published models is not beside the repository")
    rows = json.loads(TABLE.read_text())["models"]
    for row in rows:
        figures = {METRICS.get(key, key): float(row[key]) for key in FIGURES & row.keys()}
        (model,) = (
            model
            for model in MODELS.values()
            if model.url == row["url"]
            and (model.figures == figures or model.dataset == "imagenet22k")
        )
        assert model.system == row["system"].removesuffix("_classification")
        official = (row["official_config"] or "").removeprefix("configs/")
        if official.endswith(".yaml"):
            assert model.config == our_config(official)
    assert len(rows) == len(MODELS)


def test_list_models():
    names = segcore.list_models()
    assert names == sorted(names)
    assert "autofocusformer/cityscapes/instance/aff-base" not in names
    assert set(segcore.list_models("panoptic")) == {n for n in names if "/panoptic/" in n}
    assert segcore.list_models("mask2former/coco/*/r50") == [
        "mask2former/coco/instance/r50",
        "mask2former/coco/panoptic/r50",
    ]
    assert segcore.list_models("no such") == []


def test_names_that_cannot_be_loaded():
    with pytest.raises(ConfigError, match="did you mean mask2former/coco/panoptic/swin-tiny"):
        find_model("mask2former/coco/panoptic/swin-tinny")
    with pytest.raises(ConfigError, match=r"aff-base cannot be loaded: .* of the panoptic model"):
        find_model("autofocusformer/cityscapes/instance/aff-base")


def test_page_is_up_to_date():
    page = (ROOT / "docs" / "model_zoo.md").read_text(encoding="utf-8")
    assert page == with_tables(page), "run: python -m segcore.zoo.page docs/model_zoo.md"


def test_configurations_are_in_the_folder_of_the_repository():
    assert CONFIGS_FOLDER == ROOT / "configs"
