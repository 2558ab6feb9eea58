"""Training batches as a function of (seed, iteration), so that training can stop and resume.

Sample number n of the endless stream is always the same image under the same augmentation, however
many loader workers and processes there are and wherever the stream was entered.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import PurePath
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from segcore.data.panoptic_format import read_panoptic_json
from segcore.data.record_rules import photo_faults
from segcore.engine.randomness import seed_random_generators
from segcore.errors import ConfigError

# Keeps the random streams of samples and of training steps apart.
SAMPLE_STREAM = 0
# Workers can fail to hand over a batch without ending, as without file descriptors.
LOADER_TIMEOUT = 1800


class SeededDataset(Dataset):
    """Dataset dicts through a mapper, with random numbers seeded by the sample's number.

    Indices are pairs (sample number in the stream, index of the image).
    """

    def __init__(self, dataset_dicts: list[dict], mapper: Callable[[dict], dict], seed: int):
        self.mapped = MapDataset(DatasetFromList(dataset_dicts, copy=False), mapper)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.mapped)

    def __getitem__(self, sample: tuple[int, int]) -> dict[str, Any]:
        number, index = sample
        seed_random_generators(self.seed, SAMPLE_STREAM, number)
        return self.mapped[index]


class NumberedSampler(Sampler):
    """Sampler of (number in the whole job's stream, index) from this process's indices."""

    def __init__(self, sampler: Iterable[int]):
        self.sampler = sampler

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world_size = comm.get_rank(), comm.get_world_size()
        for count, index in enumerate(self.sampler):
            yield count * world_size + rank, index


class ResumableBatchSampler(Sampler):
    """Sampler of batches from iteration ``start_iter`` on; skipped images are not read.

    Args:
        groups: for each image the group it belongs to; a batch is of one group.
    """

    def __init__(
        self,
        samples: Iterable[tuple[int, int]],
        groups: Sequence[int],
        batch_size: int,
        start_iter: int = 0,
    ):
        self.samples = samples
        self.groups = groups
        self.batch_size = batch_size
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return islice(self._batches(), self.start_iter, None)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        incomplete: dict[int, list[tuple[int, int]]] = {}
        for number, index in self.samples:
            batch = incomplete.setdefault(self.groups[index], [])
            batch.append((number, index))
            if len(batch) == self.batch_size:
                yield incomplete.pop(self.groups[index])


def build_train_loader(
    cfg: CfgNode, mapper: Callable[[dict], dict], start_iter: int = 0
) -> DataLoader:
    """Build the loader of this process: lists of ``IMS_PER_BATCH / processes`` mapped dicts.

    Args:
        cfg: ``DATASETS.TRAIN``, ``DATALOADER``, ``SOLVER.IMS_PER_BATCH``, and ``SEED``, which must
            not be negative here (see ``randomness.resolve_seed``).
        mapper: returns the model's input for a dataset dict.
        start_iter: the iteration whose batch comes first.

    Raises:
        ConfigError: the batch does not divide among the processes.
        ValueError: the sampler is unknown.
    """
    world_size = comm.get_world_size()
    total_batch_size = cfg.SOLVER.IMS_PER_BATCH
    if total_batch_size <= 0 or total_batch_size % world_size:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {total_batch_size}, which {world_size} process(es) cannot "
            "share equally"
        )
    dataset_dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    batches = ResumableBatchSampler(
        NumberedSampler(_build_sampler(cfg, dataset_dicts)),
        groups=_aspect_ratio_groups(cfg, dataset_dicts),
        batch_size=total_batch_size // world_size,
        start_iter=start_iter,
    )
    return DataLoader(
        SeededDataset(dataset_dicts, mapper, cfg.SEED),
        batch_sampler=batches,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        timeout=loader_timeout(cfg),
        collate_fn=keep_list,
    )


def _build_sampler(cfg: CfgNode, dataset_dicts: list[dict]) -> Sampler:
    name, seed, size = cfg.DATALOADER.SAMPLER_TRAIN, cfg.SEED, len(dataset_dicts)
    if name == "TrainingSampler":
        return TrainingSampler(size, seed=seed)
    if name == "RepeatFactorTrainingSampler":
        repeat_factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset_dicts, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return RepeatFactorTrainingSampler(repeat_factors, seed=seed)
    if name == "RandomSubsetTrainingSampler":
        return RandomSubsetTrainingSampler(
            size, cfg.DATALOADER.RANDOM_SUBSET_RATIO, seed_shuffle=seed, seed_subset=seed
        )
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN is {name!r}, expected TrainingSampler, "
        "RepeatFactorTrainingSampler or RandomSubsetTrainingSampler"
    )


def _aspect_ratio_groups(cfg: CfgNode, dataset_dicts: list[dict]) -> list[int]:
    """Group images by aspect ratio as Detectron2 does, landscape and others, for less padding.

    There is one group if a data set does not state sizes, as most semantic ones.
    """
    sizes = _stated_sizes(cfg, dataset_dicts) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    if sizes is None:
        return [0] * len(dataset_dicts)
    return [int(width > height) for height, width in sizes]


def _stated_sizes(cfg: CfgNode, dataset_dicts: list[dict]) -> list[tuple[int, int]] | None:
    """Return (height, width) of each record, from itself or the panoptic JSON of its data set.

    Detectron2's records of panoptic data sets have no sizes. None if any size is unknown.
    """
    if all("width" in record and "height" in record for record in dataset_dicts):
        return [(record["height"], record["width"]) for record in dataset_dicts]
    sizes = {}
    for name in cfg.DATASETS.TRAIN:
        path = MetadataCatalog.get(name).get("panoptic_json")
        for photo in read_panoptic_json(path)["images"] if path else ():
            if not photo_faults(photo):
                stem = PurePath(photo["file_name"]).stem
                sizes[photo["id"], stem] = photo["height"], photo["width"]
    keys = [
        (record.get("image_id"), PurePath(record["file_name"]).stem) for record in dataset_dicts
    ]
    return [sizes[key] for key in keys] if sizes.keys() >= set(keys) else None


def loader_timeout(cfg: CfgNode) -> float:
    """Return the seconds to wait for a batch of the workers; 0 (no limit) without workers."""
    return LOADER_TIMEOUT if cfg.DATALOADER.NUM_WORKERS else 0


def keep_list(batch: list[dict]) -> list[dict]:
    """Return the batch unchanged: images differ in size."""
    return batch
