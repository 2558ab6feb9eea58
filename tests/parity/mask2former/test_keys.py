"""Names, shapes and types of every published model's state dict."""

from detectron2.modeling import build_model

from parity.golden import parametrize_keys
from parity.mask2former.model import published_cfg


@parametrize_keys("mask2former")
def test_state_dict_entries(keys):
    model = build_model(published_cfg(keys.info["upstream_config"]))

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
