"""Names, shapes and types of every published model's state dict."""

from detectron2.modeling import build_model

from parity.golden import parametrize_keys
from parity.mask2former.model import CONFIGS
from segcore.config import get_cfg

# Official files that were named after another schedule than they have.
RENAMED = {"maskformer2_R101_bs16_90k.yaml": "maskformer2_R101_bs16_160k.yaml"}


@parametrize_keys("mask2former")
def test_state_dict_entries(keys):
    path = CONFIGS / keys.info["upstream_config"]
    if path.parts[-3] == "ade20k":
        path = path.with_name(RENAMED.get(path.name, path.name))
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)

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
