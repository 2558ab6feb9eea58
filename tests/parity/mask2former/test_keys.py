"""Names, shapes and types of every published model's state dict."""

from detectron2.modeling import build_model
from torch import nn

from parity.golden import Case, parametrize_keys
from parity.mask2former.model import published_cfg


@parametrize_keys("mask2former")
def test_state_dict_entries(keys):
    compare_entries(build_model(published_cfg(keys.info["upstream_config"])), keys)


@parametrize_keys("mask2former_more")
def test_state_dict_entries_of_other_decoders(keys):
    cfg = published_cfg(keys.info["base_config"], keys.info["changes"])
    compare_entries(build_model(cfg), keys)


def compare_entries(model: nn.Module, keys: Case) -> None:
    entries = {
        name: (list(entry.shape), str(entry.dtype).removeprefix("torch."))
        for name, entry in model.state_dict().items()
    }
    official = {
        name: (shape, dtype) for name, shape, dtype in keys.info["entries_name_shape_dtype"]
    }
    assert entries == official
    trained = sum(parameter.numel() for parameter in model.parameters())
    assert trained == keys.info["num_parameters"]
