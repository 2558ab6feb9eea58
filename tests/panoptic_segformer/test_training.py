"""Training steps of a whole small model: gradients everywhere, half precision, learning."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch.nn.parallel import DistributedDataParallel

from segcore.config import get_cfg
from segcore.solver import build_optimizer

BASE = Path(__file__).resolve().parents[2] / "configs/_base_"
NUM_CLASSES, THING_IDS = 5, (0, 3)
THINGS, STUFF = [0, 3, 3], [1, 4]


def small_cfg(**keys):
    MetadataCatalog.get("segformer_training").set(
        thing_dataset_id_to_contiguous_id={i: i for i in THING_IDS}
    )
    cfg = get_cfg()
    for part in ("panoptic_segformer.yaml", "backbones/resnet18_scratch.yaml"):
        cfg.merge_from_file(str(BASE / part))
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN = ("segformer_training",)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES
    panoptic_segformer = cfg.MODEL.PANOPTIC_SEGFORMER
    panoptic_segformer.HIDDEN_DIM, panoptic_segformer.NHEADS = 64, 4
    panoptic_segformer.DIM_FEEDFORWARD = 32
    panoptic_segformer.ENC_LAYERS, panoptic_segformer.LOCATION_LAYERS = 1, 2
    panoptic_segformer.THING_MASK_LAYERS = panoptic_segformer.STUFF_MASK_LAYERS = 2
    panoptic_segformer.DROPOUT = 0.0
    panoptic_segformer.SIZE_DIVISIBILITY = 32
    panoptic_segformer.NUM_THING_QUERIES = 6
    for key, value in keys.items():
        panoptic_segformer[key] = value
    return cfg


def small_model(**keys):
    torch.manual_seed(0)
    return build_model(small_cfg(**keys)).train()


def photo(classes, size=(64, 96)):
    """A photo of one color for each of ``classes``, in vertical bars."""
    generator = torch.Generator().manual_seed(len(classes))
    image = torch.randint(0, 60, (3, *size), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(len(classes), *size, dtype=torch.bool)
    for mask, columns, label in zip(masks, torch.arange(size[1]).chunk(5), classes, strict=False):
        mask[8:, columns] = True
        image[label % 3, 8:, columns] += 40 * (label + 1) - 40
    instances = Instances(size)
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_masks = BitMasks(masks)
    return {"image": image, "instances": instances}


def without_gradient(model) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("target", ["box", "centre"])
@pytest.mark.parametrize(
    "classes", [(THINGS + STUFF, STUFF), (STUFF, STUFF), (THINGS, [0]), ([], [])], ids=str
)
def test_every_parameter_has_a_gradient(classes, target):
    model = small_model(LOCATION_TARGET=target)
    losses = model([photo(of_image) for of_image in classes])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert not without_gradient(model)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_official_empty_things_keeps_parameters_in_use():
    model = small_model(OFFICIAL_EMPTY_THINGS=True)
    sum(model([photo(STUFF)]).values()).backward()
    assert not without_gradient(model)
    assert not any(p.grad.any() for p in model.stuff_class_embed.parameters())


def test_distributed_training_needs_no_search_for_unused_parameters(tmp_path):
    """It complains at the second step about parameters that the first left out."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(small_model())
        for classes in (STUFF, [], THINGS, THINGS + STUFF):
            sum(model([photo(classes)]).values()).backward()
            assert not without_gradient(model)
    finally:
        dist.destroy_process_group()


def test_half_precision():
    batch = [photo(THINGS + STUFF), photo(STUFF, size=(48, 64))]
    model = small_model()
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch)
    assert losses.keys() == exact.keys()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=0.1, atol=0.05, msg=name)
    sum(losses.values()).backward()
    assert not without_gradient(model)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("target", ["box", "centre"])
def test_learns(target):
    cfg = small_cfg(LOCATION_TARGET=target)
    cfg.SOLVER.BASE_LR = 0.001
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    batch, totals = [photo(THINGS + STUFF)], []
    for _ in range(15):
        losses = model(batch)
        totals.append({name: loss.item() for name, loss in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    first, last = totals[0], totals[-1]
    assert sum(last.values()) < 0.6 * sum(first.values())
    for name in ("loss_cls", "loss_mask_things", "loss_mask_stuff"):
        assert last[name] < first[name], name
