"""Pictures and tables of results."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from segcore.visualization import (
    categories_of,
    draw_instances,
    draw_panoptic,
    draw_semantic,
    format_rows,
    instance_rows,
    panoptic_rows,
    semantic_rows,
    sheet,
)

CATEGORIES = [
    {"id": 17, "name": "cat", "isthing": 1, "color": [255, 0, 0]},
    {"id": 187, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
]
SEGMENTS = [
    {"id": 1, "isthing": True, "category_id": 0},
    {"id": 2, "isthing": False, "category_id": 1},
]


@pytest.fixture
def grey():
    return np.full((60, 80, 3), 128, np.uint8)


@pytest.fixture
def ids():
    ids = torch.zeros(60, 80, dtype=torch.int32)
    ids[10:40, 10:40] = 1
    ids[:, 60:] = 2
    return ids


def instances(ids):
    masks = torch.stack([ids == 1, ids == 2]).float()
    return Instances(
        ids.shape,
        pred_masks=masks,
        pred_classes=torch.tensor([0, 1]),
        scores=torch.tensor([0.25, 0.75]),
        pred_boxes=Boxes(torch.tensor([[10, 10, 40, 40], [60, 0, 80, 60]])),
    )


class TestCategories:
    def test_all_names_in_both_lists(self):
        metadata = Metadata(name="own").set(
            thing_classes=["cat", "sky"],
            stuff_classes=["cat", "sky"],
            stuff_colors=[(255, 0, 0), (0, 0, 255)],
            thing_dataset_id_to_contiguous_id={17: 0},
            stuff_dataset_id_to_contiguous_id={17: 0, 187: 1},
        )
        assert categories_of(metadata, 2) == CATEGORIES

    def test_things_named_apart(self):
        """As in ADE20K panoptic: category 1 must not be called by the second thing's name."""
        metadata = Metadata(name="ade").set(
            thing_classes=["door"],
            stuff_classes=["wall", "door", "sky"],
            thing_dataset_id_to_contiguous_id={1: 1},
            stuff_dataset_id_to_contiguous_id={0: 0, 1: 1, 2: 2},
        )
        categories = categories_of(metadata, 3)
        assert [c["name"] for c in categories] == ["wall", "door", "sky"]
        assert [c["isthing"] for c in categories] == [0, 1, 0]

    def test_the_list_of_the_model_counts(self):
        metadata = Metadata(name="city").set(thing_classes=["car"], stuff_classes=["road", "car"])
        assert [(c["name"], c["isthing"]) for c in categories_of(metadata, 1)] == [("car", 1)]
        assert [(c["name"], c["isthing"]) for c in categories_of(metadata, 2)] == [
            ("road", 0),
            ("car", 0),
        ]

    def test_other_count_is_an_error(self):
        metadata = Metadata(name="own").set(thing_classes=["cat"])
        with pytest.raises(ValueError, match=r"model has 3 classes .*'own' name 1 things and 0"):
            categories_of(metadata, 3)

    def test_many_classes_without_colours(self):
        metadata = Metadata(name="full").set(stuff_classes=[str(i) for i in range(847)])
        assert len(categories_of(metadata, 847)[846]["color"]) == 3


class TestOverlays:
    def test_panoptic(self, grey, ids):
        segments = [dict(segment) for segment in SEGMENTS]
        drawn = draw_panoptic(grey, ids, segments, CATEGORIES)
        assert (drawn.shape, drawn.dtype) == (grey.shape, np.uint8)
        red, blue = drawn[35, 15].astype(int), drawn[5, 70].astype(int)
        assert red[0] > red[2] + 20
        assert blue[2] > blue[0] + 20
        assert drawn[55, 5].tolist() == [128, 128, 128]
        assert segments == SEGMENTS

    def test_scale(self, grey, ids):
        assert draw_panoptic(grey, ids, SEGMENTS, CATEGORIES, scale=2).shape == (120, 160, 3)

    def test_nothing_found(self, grey, ids):
        drawn = draw_panoptic(grey, torch.zeros_like(ids), [], CATEGORIES)
        np.testing.assert_array_equal(drawn, grey)
        none = instances(ids)[torch.zeros(2, dtype=torch.bool)]
        np.testing.assert_array_equal(draw_instances(grey, none, CATEGORIES), grey)

    def test_instances(self, grey, ids):
        drawn = draw_instances(grey, instances(ids), CATEGORIES)
        assert drawn.shape == grey.shape
        assert drawn[35, 15].tolist() != [128, 128, 128]

    def test_semantic(self, grey, ids):
        labels = torch.where(ids == 2, 1, torch.where(ids == 1, 0, 255))
        drawn = draw_semantic(grey, labels, CATEGORIES)
        assert drawn[5, 70, 2] > drawn[5, 70, 0]
        assert drawn[55, 5].tolist() == [128, 128, 128]


class TestTables:
    def test_panoptic(self, ids):
        scores = torch.stack([torch.full(ids.shape, 0.5), torch.full(ids.shape, 1.5)])
        rows = panoptic_rows(ids, SEGMENTS, CATEGORIES, scores)
        assert [(row.name, row.is_thing, row.area, row.score) for row in rows] == [
            ("sky", False, 0.25, 1.0),
            ("cat", True, 900 / 4800, 0.5),
        ]
        table = [line.split() for line in format_rows(rows).splitlines()]
        assert table[0] == ["class", "kind", "area", "score"]
        assert table[2:] == [["sky", "stuff", "25.0%", "1.00"], ["cat", "thing", "18.8%", "0.50"]]

    def test_instances(self, ids):
        rows = instance_rows(instances(ids), CATEGORIES)
        assert [(row.name, row.area, row.score) for row in rows] == [
            ("sky", pytest.approx(0.25), 0.75),
            ("cat", pytest.approx(900 / 4800), 0.25),
        ]

    def test_semantic(self, ids):
        rows = semantic_rows((ids == 2).long(), CATEGORIES)
        assert [(row.name, row.area) for row in rows] == [("cat", 0.75), ("sky", 0.25)]

    def test_empty(self, ids):
        assert panoptic_rows(torch.zeros_like(ids), [], CATEGORIES) == []
        assert "class" in format_rows([])


class TestSheet:
    def test_pictures_stand_in_rows_and_columns(self):
        red, blue = (np.full((50, 100, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
        picture = sheet([[red, blue], [blue, red]], cell_width=200, margin=10)
        assert picture.shape == (230, 430, 3)
        assert picture[60, 100].tolist() == picture[170, 320].tolist() == [255, 0, 0]
        assert picture[60, 320].tolist() == picture[170, 100].tolist() == [0, 0, 255]
        assert picture[5, 5].tolist() == [255, 255, 255]

    def test_titles_and_captions_are_written(self, grey):
        plain = sheet([[grey, grey[:30]]])
        titled = sheet([[grey, grey[:30]]], ["truth", "prediction"], ["a photo"])
        assert titled.shape[0] > plain.shape[0]
        assert (titled[:30] < 100).any()
        assert (titled[-40:] < 100).any()

    @pytest.mark.parametrize("rows", [[], [[]], [["a", "b"], ["a"]]])
    def test_bad_rows(self, rows):
        with pytest.raises(ValueError, match="rows: expected rows of equal length"):
            sheet(rows)

    def test_bad_titles(self, grey):
        with pytest.raises(ValueError, match="titles: expected 1, got 2"):
            sheet([[grey]], ["a", "b"])
        with pytest.raises(ValueError, match="captions: expected 1, got 2"):
            sheet([[grey]], captions=["a", "b"])
