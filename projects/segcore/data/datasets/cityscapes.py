"""Cityscapes, which Detectron2 registers: how its package of scripts makes what is missing."""

from segcore.data.datasets.catalog import register_again

SCRIPT = "cityscapesscripts.preparation.createPanopticImgs"


def register_cityscapes(root: str) -> None:
    """Say how ``cityscapes_fine_panoptic_{train,val}`` get their panoptic annotation."""
    way = (
        f"CITYSCAPES_DATASET={root}/cityscapes python -m {SCRIPT} makes it of gtFine "
        "(pip install cityscapesscripts)"
    )
    for split in ("train", "val"):
        annotation = f"{root}/cityscapes/gtFine/cityscapes_panoptic_{split}"
        texts = {annotation: way, f"{annotation}.json": way}
        register_again(f"cityscapes_fine_panoptic_{split}", needs=texts, preparation=texts)
