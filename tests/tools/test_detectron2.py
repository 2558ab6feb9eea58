"""Features of the installed Detectron2 that the project relies on, for every way to install it."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MapDataset, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.engine import hooks
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import nms_rotated
from detectron2.structures import Boxes, Instances

SIZE = 40


@pytest.fixture
def coco_dataset(tmp_path):
    """Name of a registered data set of one image with one 20x20 box."""
    name = f"coco_{tmp_path.name}"
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400}
    contents = {
        "info": {},
        "images": [{"id": 1, "width": SIZE, "height": SIZE, "file_name": "1.jpg"}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{**box, "iscrowd": 0, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(contents))
    MetadataCatalog.get(name).set(
        json_file=str(tmp_path / "instances.json"), thing_dataset_id_to_contiguous_id={1: 0}
    )
    yield name
    MetadataCatalog.pop(name)


@pytest.mark.parametrize(("shift", "expected"), [(0, 100.0), (30, 0.0)])
def test_coco_evaluation_by_default_arguments(coco_dataset, shift, expected):
    box = torch.tensor([[5.0, 5.0, 25.0, 25.0]]) + shift
    found = Instances(
        (SIZE, SIZE),
        pred_boxes=Boxes(box),
        scores=torch.ones(1),
        pred_classes=torch.zeros(1, dtype=torch.int64),
    )
    evaluator = COCOEvaluator(coco_dataset, tasks=("bbox",), distributed=False)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(expected)


def test_scheduler_state_is_saved():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    hook = hooks.LRScheduler(optimizer, scheduler)
    assert hook.state_dict()["step_size"] == 1


def test_unusable_items_are_replaced():
    dataset = MapDataset([1, 2, 3], lambda item: item if item == 2 else None)
    assert dataset[0] == 2


def test_transforms_of_grey_images():
    grey = np.zeros((20, 30, 1), np.uint8)
    assert T.ResizeTransform(20, 30, 10, 15).apply_image(grey).shape == (10, 15, 1)
    assert T.ExtentTransform((0, 0, 10, 10), (8, 8)).apply_image(grey).shape == (8, 8, 1)


def test_model_zoo_configs_are_packed():
    # The main branch reads them through pkg_resources, which setuptools has removed.
    model_zoo = pytest.importorskip("detectron2.model_zoo")
    cfg = model_zoo.get_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == "PanopticFPN"


def test_missing_extension_is_an_import_error():
    try:
        from detectron2 import _C  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"no C\+\+ extension"):
            nms_rotated(torch.tensor([[5.0, 5, 2, 2, 0]]), torch.ones(1), 0.5)
    else:
        pytest.skip("this Detectron2 has its C++ extension")
