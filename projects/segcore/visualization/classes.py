"""Classes of a data set as one list of categories."""

from collections.abc import Mapping, Sequence

from detectron2.data import Metadata
from detectron2.utils.colormap import colormap

from segcore.data.panoptic_format import Category


def categories_of(metadata: Metadata, num_classes: int) -> list[Category]:
    """Return COCO panoptic categories by contiguous id: entry c is class c of the model.

    Metadata name classes as things and as stuff: some data sets have all in both lists, or all in
    the one for stuff, or are used for their things alone. The list of the model's length counts.
    The ids are those of the data set, or contiguous ids if it has none.

    Raises:
        ValueError: no list has ``num_classes`` names.
    """
    things, stuff = metadata.get("thing_classes") or [], metadata.get("stuff_classes") or []
    if num_classes not in (len(things), len(stuff)):
        raise ValueError(
            f"the model has {num_classes} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), the metadata "
            f"of {metadata.name!r} name {len(things)} things and {len(stuff)} in the list for stuff"
        )
    names = stuff if len(stuff) == num_classes else things
    thing_ids = _by_contiguous_id(metadata.get("thing_dataset_id_to_contiguous_id"))
    stuff_ids = _by_contiguous_id(metadata.get("stuff_dataset_id_to_contiguous_id"))
    only_things = names is things
    dataset_ids = thing_ids if only_things else {**stuff_ids, **thing_ids}
    colors = _colors(metadata, len(names))
    return [
        {
            "id": dataset_ids.get(index, index),
            "name": name,
            "isthing": int(index in thing_ids if thing_ids else only_things),
            "color": list(colors[index]),
        }
        for index, name in enumerate(names)
    ]


def _by_contiguous_id(contiguous_ids: Mapping[int, int] | None) -> dict[int, int]:
    return {index: identity for identity, index in (contiguous_ids or {}).items()}


def _colors(metadata: Metadata, count: int) -> Sequence[Sequence[int]]:
    for key in ("stuff_colors", "thing_colors"):
        if len(colors := metadata.get(key) or []) == count:
            return colors
    palette = colormap(rgb=True, maximum=255).astype(int).tolist()
    return [palette[index % len(palette)] for index in range(count)]
