import pytest
import torch

from panoptic_segformer.class_order import ClassOrder


def test_interleaved_classes():
    order = ClassOrder(6, {4, 1, 5})
    assert order.things.tolist() == [1, 4, 5] and order.stuff.tolist() == [0, 2, 3]
    assert order.is_thing.tolist() == [False, True, False, False, True, True]
    for kind in (order.things, order.stuff):
        assert torch.equal(order.index[kind], torch.arange(3))
    assert not order.state_dict()


@pytest.mark.parametrize("things", [[], [0, 1, 2]])
def test_one_kind_only(things):
    order = ClassOrder(3, things)
    assert len(order.things) == len(things) and len(order.stuff) == 3 - len(things)
    assert order.index.tolist() == [0, 1, 2]


def test_ids_outside():
    with pytest.raises(ValueError, match=r"thing_ids: expected ids in \[0, 3\), got \[-1, 3\]"):
        ClassOrder(3, [3, 1, -1])
