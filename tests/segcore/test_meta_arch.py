from detectron2.data import MetadataCatalog

from segcore.meta_arch import thing_ids_of


def test_things_by_metadata():
    name = "test_meta_arch_things"
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {17: 1, 4: 0}
    try:
        assert thing_ids_of([name, "another"], 5) == {0, 1}
    finally:
        MetadataCatalog.pop(name)
    assert thing_ids_of([], 3) == {0, 1, 2}
    assert thing_ids_of(["test_meta_arch_unlabelled"], 3) == {0, 1, 2}
    MetadataCatalog.pop("test_meta_arch_unlabelled")
