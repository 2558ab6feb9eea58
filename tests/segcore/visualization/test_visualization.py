"""Pictures and tables of results."""

import itertools

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from segcore.visualization import (
    Row,
    SegmentMap,
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
from segcore.visualization.colors import CLEAR_FROM_PHOTO, mean_colors, segment_colors
from segcore.visualization.overlay import EDGE_COLOR
from segcore.visualization.painting import label_picture
from segcore.visualization.placement import place_labels

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


def run_lengths(instances):
    """The same instances in compact form."""
    masks = np.asfortranarray(instances.pred_masks.numpy().transpose(1, 2, 0), np.uint8)
    instances.pred_masks_rle = mask_util.encode(masks)
    instances.remove("pred_masks")
    return instances


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

    def test_many_classes_without_colors(self):
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
        np.testing.assert_array_equal(
            draw_instances(grey, run_lengths(instances(ids)), CATEGORIES), drawn
        )

    def test_small_instances_lie_over_large_ones(self, grey, ids):
        found = instances(ids)
        found.pred_masks = torch.stack([ids == 1, torch.ones(60, 80)])
        drawn = draw_instances(grey, found, CATEGORIES)
        assert drawn[37, 20].tolist() != drawn[50, 20].tolist()

    def test_any_number_of_segments_and_any_id(self, grey):
        ids = torch.arange(4800).reshape(60, 80) // 8 * 20_000
        segments = [
            {"id": int(n), "isthing": n % 3 > 0, "category_id": 0} for n in ids.unique()[1:]
        ]
        drawn = draw_panoptic(grey, ids, segments, CATEGORIES)
        assert (drawn != 128).any(2).mean() > 0.9

    @pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3)])
    def test_odd_sizes(self, size):
        ids = torch.ones(size, dtype=torch.int32)
        drawn = draw_panoptic(np.zeros((*size, 3), np.uint8), ids, SEGMENTS, CATEGORIES)
        assert drawn[0, 0].tolist() != [0, 0, 0]

    def test_strips_do_not_show(self, grey, ids, monkeypatch):
        whole = draw_panoptic(grey, ids, SEGMENTS, CATEGORIES)
        monkeypatch.setattr("segcore.visualization.segment_map.PIXELS_PER_STRIP", 200)
        np.testing.assert_array_equal(draw_panoptic(grey, ids, SEGMENTS, CATEGORIES), whole)

    def test_lines_grow_with_the_photo(self):
        lines = []
        for edge in (400, 2800):
            ids = torch.zeros(edge, edge, dtype=torch.int32)
            ids[:, edge // 2 :] = 2
            drawn = draw_panoptic(np.zeros((edge, edge, 3), np.uint8), ids, SEGMENTS, CATEGORIES)
            lines.append((drawn[5] == EDGE_COLOR).all(1).sum())
        assert lines == [1, 4]

    def test_semantic(self, grey, ids):
        labels = torch.where(ids == 2, 1, torch.where(ids == 1, 0, 255))
        drawn = draw_semantic(grey, labels, CATEGORIES)
        assert drawn[5, 70, 2] > drawn[5, 70, 0]
        assert drawn[55, 5].tolist() == [128, 128, 128]


class TestColors:
    def test_things_differ_from_what_is_below_and_from_each_other(self):
        below = np.array([[0.0, 0, 255], [0, 0, 255], [0, 0, 255], [0, 0, 255]])
        *things, stuff = segment_colors([(0, 0, 255)] * 4, [True] * 3 + [False], below).astype(int)
        assert stuff.tolist() == [0, 0, 255]
        colors = [below[0], *things]
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)]
        assert min(distances) > 60
        assert min(np.linalg.norm(things - below[0], axis=1)) >= CLEAR_FROM_PHOTO

    def test_the_color_of_the_class_where_it_is_clear(self):
        (color,) = segment_colors([(255, 0, 0)], [True], np.array([[0.0, 0, 255]]))
        assert color.tolist() == [255, 0, 0]

    def test_means_of_a_photo(self, grey, ids):
        grey[ids.numpy() == 1] = (1, 2, 3)
        means = mean_colors(grey, ids.numpy(), 3)
        np.testing.assert_allclose(means, [[1, 2, 3], [128] * 3, [128] * 3])


class TestLabels:
    @staticmethod
    def place(indices, sizes):
        extents = SegmentMap(indices, len(sizes)).extents
        return place_labels(indices, extents, [True] * len(sizes), sizes)

    def test_inside_of_a_ring_not_in_its_hole(self):
        indices = np.zeros((100, 100), np.uint8)
        indices[10:90, 10:90] = 1
        indices[35:65, 35:65] = 0
        ((left, top),) = self.place(indices, [(10, 6)])
        assert indices[top + 3, left + 5] == 1

    def test_beside_a_small_segment(self):
        indices = np.zeros((100, 100), np.uint8)
        indices[50:56, 50:56] = 1
        ((left, top),) = self.place(indices, [(30, 10)])
        assert not indices[top : top + 10, left : left + 30].any()
        assert abs(top - 50) < 20

    def test_not_over_each_other_and_inside_of_the_picture(self):
        indices = np.zeros((60, 80), np.uint8)
        indices[:4, :4] = 1
        indices[:4, 4:8] = 2
        (left1, top1), (left2, top2) = self.place(indices, [(20, 8)] * 2)
        assert abs(left1 - left2) >= 20 or abs(top1 - top2) >= 8
        assert min(left1, left2, top1, top2) >= 0

    def test_left_out_where_there_is_no_room(self):
        assert self.place(np.ones((5, 90), np.uint8), [(20, 8), (2, 2)]) == [None, None]

    def test_text_is_escaped_and_cut(self):
        assert label_picture("a\x1b\n" + "x" * 9999, 12, (0, 0, 255)).shape[1] < 500


class TestSegmentMap:
    def test_extents(self, ids):
        segment_map = SegmentMap.from_ids(ids.numpy(), [2, 7, 1])
        assert segment_map.indices.dtype == np.uint8
        assert [(e.area, e.box) for e in segment_map.extents] == [
            (1200, (60, 0, 20, 60)),
            (0, (0, 0, 0, 0)),
            (900, (10, 10, 30, 30)),
        ]

    def test_ids_out_of_the_list(self):
        ids = np.array([[-1, 0, 1, 2**24]])
        for segment_ids, expected in (
            ([0], [[0, 1, 0, 0]]),
            ([2**24, 1], [[0, 0, 2, 1]]),
            ([], [[0, 0, 0, 0]]),
        ):
            assert SegmentMap.from_ids(ids, segment_ids).indices.tolist() == expected
        assert SegmentMap.from_ids(np.uint8([[255]]), range(300)).indices.tolist() == [[256]]

    def test_drawing_takes_ids_or_their_map(self, grey, ids):
        segment_map = SegmentMap.from_ids(ids.numpy(), [1, 2])
        for scale in (1, 2):
            drawn = draw_panoptic(grey, segment_map, SEGMENTS, CATEGORIES, scale)
            expected = draw_panoptic(grey, ids, SEGMENTS, CATEGORIES, scale)
            np.testing.assert_array_equal(drawn, expected)


class TestTables:
    def test_panoptic(self):
        segments = [{**SEGMENTS[0], "score": 0.5}, {**SEGMENTS[1], "score": 1.0}]
        rows = panoptic_rows([900, 1200], segments, CATEGORIES, 4800)
        assert [(row.name, row.is_thing, row.area, row.score) for row in rows] == [
            ("sky", False, 0.25, 1.0),
            ("cat", True, 900 / 4800, 0.5),
        ]
        table = [line.split() for line in format_rows(rows).splitlines()]
        assert table[0] == ["class", "kind", "area", "score"]
        assert table[2:] == [["sky", "stuff", "25.0%", "1.00"], ["cat", "thing", "18.8%", "0.50"]]

    def test_instances(self, ids):
        rows = instance_rows(instances(ids), CATEGORIES)
        assert rows == instance_rows(run_lengths(instances(ids)), CATEGORIES)
        assert [(row.name, row.area, row.score) for row in rows] == [
            ("sky", pytest.approx(0.25), 0.75),
            ("cat", pytest.approx(900 / 4800), 0.25),
        ]

    def test_semantic(self, ids):
        rows = semantic_rows((ids == 2).byte().numpy(), CATEGORIES)
        assert [(row.name, row.area) for row in rows] == [("cat", 0.75), ("sky", 0.25)]

    def test_empty(self, ids):
        assert panoptic_rows([], [], CATEGORIES, 4800) == []
        assert format_rows([]) == "nothing found"

    def test_hostile_names(self):
        table = format_rows([Row("\x1b[31mred\n\u202e" + "x" * 9999, True, 0.5, None)])
        assert "\x1b" not in table and "\u202e" not in table
        assert len(table.splitlines()) == 3
        assert max(map(len, table.splitlines())) < 120


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

    def test_very_tall_pictures_are_bounded(self):
        picture = sheet([[np.zeros((20_000, 3, 3), np.uint8)]], cell_width=100, margin=10)
        assert picture.shape == (420, 120, 3)
        assert (picture[10:410, 59] == 0).all()

    @pytest.mark.parametrize("rows", [[], [[]], [["a", "b"], ["a"]]])
    def test_bad_rows(self, rows):
        with pytest.raises(ValueError, match="rows: expected rows of equal length"):
            sheet(rows)

    def test_bad_titles(self, grey):
        with pytest.raises(ValueError, match="titles: expected 1, got 2"):
            sheet([[grey]], ["a", "b"])
        with pytest.raises(ValueError, match="captions: expected 1, got 2"):
            sheet([[grey]], captions=["a", "b"])
