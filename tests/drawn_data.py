"""A few small pictures with their annotations, for tests of whole programs."""

from pathlib import Path

from segcore.data import quickstart


def draw_data(root: Path) -> dict[str, str]:
    """Draw 4 pictures for training and 3 for tests; return the settings that name them."""
    quickstart.generate(root, seed=0, num_train=4, num_val=3, size=(48, 64))
    settings = {}
    for split, folder in (("TRAIN", root / "train"), ("TEST", root / "val")):
        settings[f"DATASETS.PANOPTIC.{split}.IMAGES"] = str(folder / "images")
        settings[f"DATASETS.PANOPTIC.{split}.JSON"] = str(folder / "panoptic.json")
        settings[f"DATASETS.PANOPTIC.{split}.PNGS"] = str(folder / "panoptic")
    return settings
