"""The order of classes in the network: things first, then stuff, each by contiguous id."""

from collections.abc import Collection

import torch
from torch import Tensor, nn


class ClassOrder(nn.Module):
    """Translates between a data set's contiguous ids and the outputs of the network.

    Thing class i of the network is the id ``things[i]``, stuff class i is ``stuff[i]``. COCO has
    this order already; ADE20K and Cityscapes mix things and stuff.

    Attributes:
        things, stuff: int64 contiguous ids, ascending.
        is_thing: bool (num_classes,), by contiguous id.
        index: int64 (num_classes,): the thing or stuff class of a contiguous id.
    """

    things: Tensor
    stuff: Tensor
    is_thing: Tensor
    index: Tensor

    def __init__(self, num_classes: int, thing_ids: Collection[int]):
        super().__init__()
        outside = sorted(i for i in thing_ids if not 0 <= i < num_classes)
        if outside:
            raise ValueError(
                f"thing_ids: expected ids in [0, {num_classes}), got {outside} "
                "(MODEL.SEM_SEG_HEAD.NUM_CLASSES)"
            )
        things = sorted(set(thing_ids))
        stuff = sorted(set(range(num_classes)) - set(things))
        index = {class_id: i for ids in (things, stuff) for i, class_id in enumerate(ids)}
        # Of lists, so that the network can also be built on the meta device.
        classes = range(num_classes)
        is_thing = torch.tensor([i in thing_ids for i in classes], dtype=torch.bool)
        self.register_buffer("is_thing", is_thing, persistent=False)
        for name, values in (
            ("things", things),
            ("stuff", stuff),
            ("index", [index[i] for i in classes]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)
