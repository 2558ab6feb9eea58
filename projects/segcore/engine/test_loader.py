"""Batches for evaluation: each image once, for any number of processes."""

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, get_detection_dataset_dicts
from detectron2.data.samplers import InferenceSampler
from torch.utils.data import DataLoader

from segcore.data.mappers import build_test_mapper
from segcore.engine.train_loader import keep_list, loader_timeout


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Build the loader of this process: lists of ``TEST.IMS_PER_BATCH`` mapped dicts.

    Detectron2's own makes batches of one image in v0.6.
    """
    dataset_dicts = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return DataLoader(
        MapDataset(DatasetFromList(dataset_dicts, copy=False), build_test_mapper(cfg)),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        sampler=InferenceSampler(len(dataset_dicts)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        timeout=loader_timeout(cfg),
        collate_fn=keep_list,
    )
