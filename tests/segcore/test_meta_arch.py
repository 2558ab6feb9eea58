import pytest
from detectron2.data import MetadataCatalog

import segcore.data.datasets  # noqa: F401 registers them
from segcore.errors import ConfigError
from segcore.meta_arch import thing_ids_of


def test_things_by_metadata():
    name = "test_meta_arch_things"
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {17: 1, 4: 0}
    try:
        assert thing_ids_of([name, "another"], 5) == {0, 1}
    finally:
        MetadataCatalog.pop(name)
    assert thing_ids_of([], 3) == {0, 1, 2}


def test_data_without_things_and_stuff():
    name = "test_meta_arch_unlabelled"
    MetadataCatalog.get(name)
    try:
        assert thing_ids_of([name], 3) == {0, 1, 2}
    finally:
        MetadataCatalog.pop(name)


def test_unkncustom_data_set():
    with pytest.raises(
        ConfigError, match=r"'coco_2017_train_panoptc'.*; did you mean coco_2017_tr"
    ):
        thing_ids_of(["coco_2017_train_panoptc"], 133)
    assert "coco_2017_train_panoptc" not in MetadataCatalog
