from pathlib import Path

from detectron2.modeling import build_model

from export_checks import assert_exports
from segcore.config import load_config
from small_models import SMALL_MODELS

CONFIGS = Path(__file__).parents[2] / "configs"
RESNET_18 = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
}


def test_export():
    settings = [str(item) for pair in (SMALL_MODELS | RESNET_18).items() for item in pair]
    config = CONFIGS / "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml"
    assert_exports(build_model(load_config(str(config), settings)), (128, 192), [(96, 224)])
