"""Names, shapes and types of published models' state dicts, and the classes of YouTubeVIS."""

import json

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from parity.golden import GOLDEN_ROOT, parametrize_keys
from parity.mask2former.model import published_cfg, require_official_entries


@parametrize_keys("mask2former_video")
def test_state_dict_entries(keys):
    cfg = published_cfg(keys.info["upstream_config"])
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    require_official_entries(model, keys.info)


@pytest.mark.parametrize("year", ["2019", "2021"])
def test_classes(year):
    path = GOLDEN_ROOT / "mask2former_video" / "ytvis_categories.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    ids, names, colors = zip(*json.loads(path.read_text())[year], strict=True)
    for split in ("train", "val", "test"):
        metadata = MetadataCatalog.get(f"ytvis_{year}_{split}")
        assert metadata.thing_classes == list(names)
        assert metadata.thing_colors == [tuple(color) for color in colors]
        expected = {id_: id_ - 1 for id_ in ids}
        assert metadata.thing_dataset_id_to_contiguous_id == expected
