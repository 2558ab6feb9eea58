"""Names, shapes and types of every published model's state dict."""

from detectron2.modeling import build_model

from parity.golden import parametrize_keys
from parity.mask2former.model import published_cfg, require_official_entries


@parametrize_keys("mask2former")
def test_state_dict_entries(keys):
    model = build_model(published_cfg(keys.info["upstream_config"]))
    require_official_entries(model, keys.info)


@parametrize_keys("mask2former_more")
def test_state_dict_entries_of_other_decoders(keys):
    model = build_model(published_cfg(keys.info["base_config"], keys.info["changes"]))
    require_official_entries(model, keys.info)
