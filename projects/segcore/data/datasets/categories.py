"""Class lists, and the metadata that Detectron2's evaluators and Visualizer read from them."""

import json
from functools import cache
from importlib.resources import files


@cache
def load_categories(name: str) -> list[dict]:
    """The classes of ``categories/<name>.json`` in the order of their contiguous ids."""
    return json.loads((files(__package__) / "categories" / f"{name}.json").read_text("utf-8"))


def semantic_metadata(categories: list[dict]) -> dict:
    """``stuff_classes``, and ``stuff_colors`` where every class has a color."""
    metadata = {"stuff_classes": [category["name"] for category in categories]}
    colors = [category.get("color") for category in categories]
    if all(colors):
        metadata["stuff_colors"] = colors
    return metadata


def instance_metadata(categories: list[dict]) -> dict:
    """Things alone, numbered 0, 1, ... in the order of ``categories``."""
    things = [category for category in categories if category["isthing"]]
    return {
        "thing_classes": [thing["name"] for thing in things],
        "thing_colors": [thing["color"] for thing in things],
        "thing_dataset_id_to_contiguous_id": {thing["id"]: i for i, thing in enumerate(things)},
    }
