"""The report of an evaluation: what is chosen, what is written, what cannot do harm."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
from PIL import Image

from segcore.evaluation import PanopticQuality
from segcore.evaluation.panoptic_result import PanopticResult
from segcore.evaluation.segment_matching import OUTCOME
from segcore.report.charts import curves_svg
from segcore.report.content import panoptic_content
from segcore.report.evaluator import write_evaluation_page
from segcore.report.page import finite
from segcore.report.photos import ComparedPhoto, PhotoChoice, chosen_photos, segment_scores
from segcore.report.pictures import photo_uri, small_map

from .conftest import CATEGORIES, HEIGHT, HOSTILE, WIDTH, prediction, scene


def data_of(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def test_page_holds_the_numbers(report):
    page = report.path.read_text()
    data = data_of(page)
    assert data == json.loads(json.dumps(finite(report.content)))
    assert data["tasks"][1]["overall"] == [["mIoU", None], ["fwIoU", 60.0]]
    # A class name may have a dash.
    assert data["tasks"][1]["classes"][1] == {"name": "sky-2", "values": [1.0]}
    square = data["panoptic"]["classes"][1]
    assert (square["tp"], square["fn"], square["fp"]) == (2, 1, 0)
    assert [1, 2, 1] in data["panoptic"]["confusion"]
    for costs in data["panoptic"]["costs"]:
        quality = next(g["pq"] for g in data["panoptic"]["groups"] if g["name"] == costs["name"])
        assert sum(costs["parts"].values()) + quality == pytest.approx(100)
    assert [photo["id"] for photo in data["photos"]] == ["2", "0", "1"]  # the worst first
    assert "a&amp;b.pth" in page
    assert data["curves"]["panoptic_seg"]["PQ"] == [[39, 41.0], [59, 52.0]]
    assert page.count("<figure><svg") == 4


def test_page_of_nothing_says_so(report, tmp_path):
    content = report.content | {"photos": []}
    content["panoptic"] = panoptic_content(PanopticQuality(CATEGORIES).compute())
    write_evaluation_page(tmp_path / "report.html", content)
    page = (tmp_path / "report.html").read_text()
    assert "there is nothing to measure" in page
    assert all(text not in page for text in ('class="rest"', 'href="#photos"', 'id="confusion"'))


def test_page_asks_for_nothing_and_runs_nothing_of_the_data(report):
    page = report.path.read_text()
    assert HOSTILE not in page
    assert page.count("<script") == 2
    without_namespaces = page.replace("http://www.w3.org/", "")
    assert not re.search(r"https?://|@import|url\((?!#)", without_namespaces)
    assert "default-src 'none'" in page


def test_segments_know_their_partners(report):
    photo = next(photo for photo in report.content["photos"] if photo["id"] == "1")
    truth, found = photo["truth"]["segments"], photo["prediction"]["segments"]
    assert truth[1]["iou"] == found[1]["iou"] == pytest.approx(25 / 26, abs=1e-3)
    assert truth[1]["partner"] == 1 and found[0]["partner"] == 0
    assert found[0]["score"] == 0.9 and "score" not in found[1]
    wrong = next(photo for photo in report.content["photos"] if photo["id"] == "2")
    assert wrong["truth"]["segments"][1] | {"text": ""} == {
        "class": 1,
        "state": "missed",
        "text": "",
        "found": 2,
    }
    assert wrong["prediction"]["segments"][1]["state"] == "invented"
    assert wrong["by_class"][2] == 0


def test_ignored_segments_are_neither_missed_nor_invented():
    ids, segments = scene(0)
    choice = PhotoChoice({category["id"]: i for i, category in enumerate(CATEGORIES)})
    outcomes = np.zeros(1, OUTCOME)
    outcomes["result"], outcomes["segment"], outcomes["partner"] = 0, 7, 1
    choice.add(1, "x.jpg", prediction(0), (ids, segments), outcomes)
    assert choice.photos[0].truth_segments[1]["state"] == "ignored"
    choice.add(2, "y.jpg", prediction(0), (ids, segments), outcomes[:0])
    assert len(choice.photos) == 1  # nothing to be judged by


def photo(number: int, quality: float, **class_quality: float) -> ComparedPhoto:
    by_class = {int(name[1:]): value for name, value in class_quality.items()}
    tiny = small_map(np.ones((2, 2), int), [1])
    return ComparedPhoto(number, "", quality, by_class, tiny, tiny, [], [])


def test_choice_of_parts_is_the_choice_of_all():
    generator = np.random.default_rng(0)
    photos = [
        photo(number, float(generator.random()), c0=float(generator.random()))
        for number in range(600)
    ] + [photo(600, 0.5, c1=0.9)]
    chosen = chosen_photos(photos, 2)
    qualities = [p.quality for p in chosen]
    assert qualities == sorted(qualities) and 200 <= len(chosen) <= 206
    assert qualities[0] == min(p.quality for p in photos)
    assert 600 in [p.image_id for p in chosen]
    parts = [p for start in (0, 200, 400) for p in chosen_photos(photos[start : start + 201], 2)]
    unique = {p.image_id: p for p in parts}.values()
    assert [p.image_id for p in chosen_photos(unique, 2)] == [p.image_id for p in chosen]


@pytest.mark.parametrize(("shape", "count"), [((1, 1), 1), ((37, 1000), 3), ((600, 20), 400)])
def test_small_maps_keep_their_segments(shape, count):
    rows = np.linspace(1, count, shape[0] * shape[1]).astype(int)
    ids = 70_000 * rows.reshape(shape)
    reduced = small_map(ids, [70_000 * i for i in range(1, count + 1)])
    width, height = reduced.size
    assert max(reduced.size) <= 400 and reduced.bytes_per_pixel == (1 if count < 255 else 2)
    dtype = {1: np.uint8, 2: np.dtype("<u2")}[reduced.bytes_per_pixel]
    indices = np.frombuffer(zlib.decompress(reduced.data), dtype).reshape(height, width)
    if shape == (height, width):
        assert (indices == rows.reshape(shape)).all()
    assert indices.min() >= 1 and indices.max() <= count


def test_photos_are_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1600, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    kind, _, content = photo_uri(tmp_path / "x.jpg").partition(";base64,")
    assert kind == "data:image/webp"
    assert len(base64.b64decode(content)) < 120_000


def test_scores_are_means_inside():
    import torch

    ids, segments = scene(0)
    scores = torch.zeros(3, HEIGHT, WIDTH)
    scores[0], scores[1, :, :30], scores[1, :, 30:] = 3.0, 0.5, 0.25
    assert segment_scores(ids, segments, [0, 1], scores) == [1.0, pytest.approx(0.375)]


def test_partner_is_the_matched_prediction():
    outcomes = PanopticQuality(CATEGORIES).outcomes(*prediction(2), *scene(2))
    assert outcomes["partner"].tolist() == [1, -1, -1]
    result = PanopticResult.of_images(CATEGORIES, [outcomes])
    assert result.counts().tp.tolist() == [1, 0, 0]


def test_curves_of_two_runs_share_a_drawing():
    one = {"losses": {"<loss>": [(1, 5.0), (2, 4.0)]}, "lr": {"lr": []}}
    other = {"losses": {"<loss>": [(1, 3.0)], "$x_$": [(1, 2.0)]}}
    losses, rate = curves_svg({"A": one, "B": other})
    assert all(name in losses for name in ("&lt;loss&gt; · A", "&lt;loss&gt; · B", "$x_$ · B"))
    assert "currentColor" in losses and "<loss" not in losses and rate.startswith("<svg")
    assert curves_svg({"A": {}}) == []
