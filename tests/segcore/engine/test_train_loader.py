"""The stream of training samples: a function of seed and position, and of nothing else."""

import json
from collections import Counter
from itertools import islice

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from segcore.engine.train_loader import build_train_loader

from .conftest import SIZES, augment


def batches(cfg, count, start_iter=0):
    return list(islice(iter(build_train_loader(cfg, augment, start_iter)), count))


def content(batch):
    """Image and augmentation of each sample."""
    return [(record["image_id"], record["image"].flatten()[0].item()) for record in batch]


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_stream_does_not_depend_on_workers_or_start(cfg, workers, grouping):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    expected = [content(batch) for batch in batches(cfg, 9)]
    cfg.DATALOADER.NUM_WORKERS = workers
    assert [content(batch) for batch in batches(cfg, 5, start_iter=4)] == expected[4:]
    drawn = [sample for batch in expected for sample in batch]
    assert len(set(drawn)) == len(drawn)  # no augmentation comes twice


def test_global_generators_do_not_matter(cfg):
    torch.manual_seed(1)
    first = batches(cfg, 2)
    torch.manual_seed(2)
    assert [content(b) for b in batches(cfg, 2)] == [content(b) for b in first]


def test_seed_matters(cfg):
    first = batches(cfg, 2)
    cfg.SEED = 6
    assert [content(b) for b in batches(cfg, 2)] != [content(b) for b in first]


def test_stream_does_not_depend_on_the_number_of_processes(cfg, monkeypatch):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.SOLVER.IMS_PER_BATCH = 4
    expected = batches(cfg, 3)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(batches(cfg, 3))
    for whole, first, second in zip(expected, *shares, strict=True):
        assert len(first) == len(second) == 2
        assert sorted(content(first + second)) == sorted(content(whole))


def test_groups_by_aspect_ratio(cfg):
    for batch in batches(cfg, 12):
        assert len(batch) == 2
        assert len({record["width"] > record["height"] for record in batch}) == 1


def test_groups_by_the_sizes_of_the_panoptic_json(cfg, tmp_path):
    """As for Detectron2's own COCO panoptic, whose records have no sizes."""
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    images = [
        {"id": record["image_id"], **{key: record[key] for key in ("file_name", "height", "width")}}
        for record in records
    ]
    for record in records:
        record["is_wide"] = record.pop("width") > record.pop("height")
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    metadata.panoptic_json = str(path)

    def groups() -> set[int]:
        loader = build_train_loader(cfg, lambda record: record)
        return {len({r["is_wide"] for r in batch}) for batch in islice(iter(loader), 12)}

    assert groups() == {1}
    path.write_text(json.dumps({"images": images[1:], "annotations": [], "categories": []}))
    assert groups() == {1, 2}  # without the size of one image


def test_every_image_comes_equally_often(cfg):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    seen = Counter(r["image_id"] for batch in batches(cfg, 5) for r in batch)
    assert seen == dict.fromkeys(range(len(SIZES)), 2)


@pytest.mark.parametrize("sampler", ["RandomSubsetTrainingSampler", "TrainingSampler"])
def test_samplers_by_name(cfg, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.4
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    images = {r["image_id"] for batch in batches(cfg, 10) for r in batch}
    assert len(images) == (2 if sampler.startswith("RandomSubset") else len(SIZES))


def test_unknown_sampler(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "Mystery"
    with pytest.raises(ValueError, match=r"SAMPLER_TRAIN is 'Mystery', expected TrainingSampler"):
        batches(cfg, 1)


@pytest.mark.parametrize("batch_size", [0, 3])
def test_batch_that_cannot_be_shared(cfg, batch_size, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    cfg.SOLVER.IMS_PER_BATCH = batch_size
    with pytest.raises(ValueError, match=rf"IMS_PER_BATCH is {batch_size}, which 2 process"):
        batches(cfg, 1)
