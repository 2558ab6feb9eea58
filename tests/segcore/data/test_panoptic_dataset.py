"""Records and metadata of panoptic data: the same through both doors, as Detectron2 reads them."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from segcore.data.custom_data import DATASET_NAMES, setup_custom_data
from segcore.data.datasets.panoptic import register_panoptic
from segcore.data.panoptic_dataset import panoptic_metadata
from segcore.data.panoptic_format import read_panoptic_png

SHARED = (
    "thing_classes",
    "thing_colors",
    "stuff_classes",
    "stuff_colors",
    "thing_dataset_id_to_contiguous_id",
    "stuff_dataset_id_to_contiguous_id",
    "label_divisor",
    "ignore_label",
)


@pytest.fixture
def both_doors(cfg, folder, empty_catalogs) -> tuple[str, str]:
    """Names of the same data set, registered and custom."""
    # Registered sets name a photo as its PNG.
    photo = folder.data["images"][1]
    Image.open(folder.images / photo["file_name"]).save(folder.images / "b_ids.jpg")
    photo["file_name"] = "b_ids.jpg"
    folder.write()
    folder.put_into(cfg, "TEST")
    setup_custom_data(cfg)
    register_panoptic(
        "registered",
        folder.data["categories"],
        image_root=str(folder.images),
        panoptic_json=str(folder.json),
        panoptic_root=str(folder.pngs),
        sem_seg_root=str(folder.pngs),
        evaluator_type="coco_panoptic_seg",
    )
    return "registered", DATASET_NAMES["TEST"]


def test_metadata_are_the_same(both_doors):
    registered, custom = map(MetadataCatalog.get, both_doors)
    for key in SHARED:
        assert registered.get(key) == custom.get(key) is not None, key


def test_records_are_the_same_but_for_boxes(both_doors):
    registered, custom = map(DatasetCatalog.get, both_doors)
    assert "area" in registered[0]["segments_info"][2]
    for record in (*registered, *custom):
        del record["sem_seg_file_name"]
        for segment in record["segments_info"]:
            segment.pop("area", None)
    assert registered == custom


def test_visualizer_finds_every_class(both_doors):
    for name in both_doors:
        metadata, record = MetadataCatalog.get(name), DatasetCatalog.get(name)[0]
        ids = torch.from_numpy(read_panoptic_png(record["pan_seg_file_name"]))
        photo = np.zeros((*ids.shape, 3), np.uint8)
        drawn = Visualizer(photo, metadata).draw_panoptic_seg(ids, record["segments_info"])
        assert drawn.get_image().any()
        instances = Instances(
            tuple(ids.shape),
            pred_classes=torch.tensor([2]),  # the last thing: person
            pred_masks=(ids == 16_000_000)[None],
            scores=torch.ones(1),
        )
        assert Visualizer(photo, metadata).draw_instance_predictions(instances).get_image().any()


def test_data_without_things_or_colors():
    categories = [{"id": 4, "name": "sky", "isthing": 0}, {"id": 2, "name": "road", "isthing": 0}]
    metadata = panoptic_metadata(categories)
    assert metadata["thing_classes"] == [] and metadata["thing_dataset_id_to_contiguous_id"] == {}
    assert metadata["stuff_dataset_id_to_contiguous_id"] == {4: 0, 2: 1}
    assert len(set(map(tuple, metadata["stuff_colors"]))) == 2
