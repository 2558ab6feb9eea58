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
        is_thing = torch.zeros(num_classes, dtype=torch.bool)
        is_thing[list(thing_ids)] = True
        self.register_buffer("is_thing", is_thing, persistent=False)
        self.register_buffer("things", is_thing.nonzero()[:, 0], persistent=False)
        self.register_buffer("stuff", (~is_thing).nonzero()[:, 0], persistent=False)
        index = torch.empty(num_classes, dtype=torch.int64)
        for ids in (self.things, self.stuff):
            index[ids] = torch.arange(len(ids))
        self.register_buffer("index", index, persistent=False)
