"""Requests of the page and of others: results as from Python, thresholds, bounds, refusals."""

import base64
import io
import json
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import segcore
from segcore.cli import run_command
from segcore.inference.merging import PanopticMerging
from segcore.serve.models import Segmentation
from segcore.serve.thresholds import THRESHOLDS, with_thresholds

from .conftest import MEGAPIXELS, encoded

# Of the second model; lets masks of random weights through.
ALL = {
    "quality-things": 0,
    "quality-stuff": 0,
    "overlap-things": 1,
    "overlap-stuff": 1,
    "mask": 0.4,
}


def test_segments_are_those_from_python(server, client, photo):
    answer = client.segment(encoded(photo), name="a/b\\<i>.png")
    assert answer.status == 201
    result = server.models[0](photo[:, :, ::-1])
    shown = answer.json
    assert [s["area"] for s in shown["segments"]] == [s.area for s in result.segments]
    assert (shown["file"], shown["pixels"]) == ("<i>.png", [90, 45])
    assert [c["name"] for c in shown["categories"]] == ["cat", "dog", "sky"]
    assert shown["picture"].startswith("data:image/webp;base64,")
    merging = server.models[0].predictor.model.result_maker.merging
    assert {t["name"]: t["value"] for t in shown["thresholds"]} == {
        "score": merging.score_threshold,
        "visible": merging.min_visible_share,
        "mask": merging.mask_threshold,
    }


@pytest.mark.parametrize("model", [0, 1])
def test_thresholds_are_those_of_a_request_alone(server, client, photo, model):
    before = client.segment(encoded(photo), model=model).json
    maker = server.models[model].predictor.model.result_maker
    most = {t["name"]: 0.01 if t["name"] == "mask" else 0 for t in before["thresholds"]}
    most |= {name: 1 for name in most if name.startswith("overlap")}
    more = client.get(before["id"], **most).json
    assert len(more["segments"]) > len(before["segments"])
    assert all(0 <= segment["score"] <= 1 for segment in more["segments"])
    assert {t["name"]: t["value"] for t in more["thresholds"]} == most
    assert server.models[model].predictor.model.result_maker is maker
    again = client.get(before["id"]).json
    assert again["segments"] == before["segments"]
    assert again["map"] == before["map"]


def test_files_are_those_of_prediction(client, photo):
    shown = client.segment(encoded(photo), model=1, name="ä photo.png", **ALL).json
    panoptic, overlay, content = (
        client.get(shown["id"], kind, **ALL)
        for kind in ("panoptic.png", "overlay", "panoptic.json")
    )
    assert panoptic.headers["Content-Disposition"].endswith("''%C3%A4%20photo_panoptic.png")
    ids = np.asarray(Image.open(io.BytesIO(panoptic.content))).astype(int) @ [1, 256, 65536]
    (annotation,) = json.loads(content.content)["annotations"]
    assert annotation["file_name"] == "ä photo_panoptic.png"
    areas = {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
    assert len(areas) > 1
    assert areas == {number: (ids == number).sum() for number in areas}
    assert list(areas.values()) == [segment["area"] for segment in shown["segments"]]
    assert {s["category_id"] for s in annotation["segments_info"]} <= {17, 18, 187}
    assert Image.open(io.BytesIO(overlay.content)).size == (90, 45)
    # The map of the page is that of the file where the photo is small.
    indices = np.frombuffer(zlib.decompress(base64.b64decode(shown["map"]["data"])), np.uint8)
    assert np.array_equal(indices.reshape(ids.shape), ids)


def test_orientation_of_a_photo_is_heeded(client, photo):
    exif = Image.Exif()
    exif[274] = 6
    assert client.segment(encoded(photo, "JPEG", exif=exif)).json["pixels"] == [45, 90]


def test_semantic_models_show_their_classes(server, photo):
    others = ("PANOPTIC_ON", "INSTANCE_ON")
    options = [part for key in others for part in (f"MODEL.MASK_FORMER.TEST.{key}", "False")]
    model = segcore.load(server.models.names[0], device="cpu", options=options)
    kept = Segmentation.predict(model, photo, "x")
    assert kept.merging is None
    labels = model(photo[:, :, ::-1]).semantic
    result = kept.result(None)
    assert np.array_equal(result.panoptic, labels.astype(int) + 1)
    assert {s.name: s.area for s in result.segments} == {
        ("cat", "dog", "sky")[c]: (labels == c).sum() for c in np.unique(labels)
    }
    assert kept.nbytes == photo.nbytes + 4 * labels.size


def test_old_photos_are_forgotten(client, photo, monkeypatch):
    monkeypatch.setattr("segcore.serve.store.MAX_PHOTOS", 2)
    first, *_, last = (client.segment(encoded(photo)).json["id"] for _ in range(3))
    assert client.get(first).status == 404
    assert "drop it again" in client.get(first).json["error"]
    monkeypatch.setattr("segcore.serve.store.MAX_BYTES", 1)
    newest = client.segment(encoded(photo)).json["id"]
    assert [client.get(identity).status for identity in (last, newest)] == [404, 200]


def test_page_answers_while_a_photo_is_segmented(client, photo, monkeypatch):
    started, finish = threading.Event(), threading.Event()
    predict = Segmentation.predict

    def wait(*arguments):
        started.set()
        assert finish.wait(30)
        return predict(*arguments)

    monkeypatch.setattr(Segmentation, "predict", wait)
    monkeypatch.setattr("segcore.serve.app.MAX_WAITING", 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.segment, encoded(photo))
        assert started.wait(30)
        page = client.send("GET", "/")
        busy = client.segment(encoded(photo))
        finish.set()
        assert waiting.result().status == 201
    assert (page.status, busy.status) == (200, 503)
    assert "waiting" in busy.json["error"]


def broken_jpeg() -> bytes:
    content = encoded(np.zeros((64, 64, 3), np.uint8), "JPEG")
    return content[:-40]


@pytest.mark.parametrize(
    ("make", "status", "error"),
    [
        (lambda: b"", 415, "empty"),
        (lambda: b"<svg onload=x>", 415, "its content is not JPEG"),
        (broken_jpeg, 400, "cannot read the image"),
        (lambda: bytes(2**20 + 1), 413, "expected a file of at most 1 MB"),
        (
            lambda: encoded(np.zeros((1001, 1000), np.uint8)),
            413,
            f"expected at most {MEGAPIXELS} megapixels, got 1000 x 1001 pixels",
        ),
    ],
)
def test_refused_photos(client, make, status, error, monkeypatch):
    if status == 413:
        monkeypatch.setattr("segcore.serve.uploads.read_image", None)  # decodes nothing
    answer = client.segment(make())
    assert (answer.status, list(answer.json)) == (status, ["error"])
    assert error in answer.json["error"]
    assert "segcore-" not in answer.json["error"], "names the temporary file"
    assert "\n" not in answer.json["error"]


def test_length_is_refused_before_the_body_comes(client):
    answer = client.send("POST", "/photos", Content_Length=str(2**40))
    assert (answer.status, answer.json["error"]) == (413, "expected a file of at most 1 MB")


def test_body_that_does_not_arrive(client, monkeypatch):
    monkeypatch.setattr("segcore.serve.uploads.SECONDS", 0.05)
    answer = client.send("POST", "/photos", b"abc", Content_Length="10")
    assert (answer.status, answer.json["error"]) == (408, "the file did not arrive within 0.05 s")


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ({"model": 3}, 400, "model: expected a number below 3"),
        ({"model": "../x"}, 400, "model: expected a number below 3"),
        ({"model": 2}, 500, "<b>nowhere: there is no such file"),
        ({"scor": 0.5}, 400, "'scor': expected one of score, visible, mask; did you mean score?"),
        ({"score": "nan"}, 400, "score: expected a number in [0, 1], got nan"),
        ({"score": 1.5}, 400, "score: expected a number in [0, 1], got 1.5"),
    ],
)
def test_refused_settings(client, photo, query, status, error):
    answer = client.segment(encoded(photo), **query)
    assert answer.status == status
    assert answer.json["error"].startswith(error)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/photos/unknown", 404),
        ("/photos/x/exe", 404),
        ("/../../etc/passwd", 404),
        ("/photos", 405),
    ],
)
def test_unknown_addresses(client, path, status):
    answer = client.send("GET", path)
    assert answer.status == status
    assert answer.json["error"]


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"Host": "evil.example:8000"}, "Host: expected an address"),
        ({"Host": "127.0.0.1.evil.example"}, "Host: expected an address"),
        ({"Host": "[::1"}, "Host: expected an address"),
        ({"Origin": "http://evil.example"}, "Origin: expected that of this page"),
        ({"Origin": "null"}, "Origin: expected that of this page"),
        ({"Sec_Fetch_Site": "cross-site"}, "Sec-Fetch-Site: expected same-origin"),
        ({"Sec_Fetch_Site": "same-site"}, "Sec-Fetch-Site: expected same-origin"),
    ],
)
def test_requests_of_other_pages_are_refused(client, photo, headers, error):
    answer = client.send("POST", "/photos", encoded(photo), **headers)
    assert answer.status == 403
    assert answer.json["error"].startswith(error)


def test_own_requests_and_links_are_answered(server, client, photo):
    own = {"Host": f"localhost:{server.port}", "Origin": f"http://localhost:{server.port}"}
    assert client.send("POST", "/photos", encoded(photo), **own).status == 201
    assert client.send("GET", "/", Sec_Fetch_Site="cross-site").status == 200
    for host in ("[::1]", "192.168.0.7", "workstation"):
        assert client.send("GET", "/", Host=f"{host}:{server.port}").status == 200


def test_page_has_no_text_that_can_run(client):
    page = client.send("GET", "/")
    text = page.content.decode()
    assert "<b>nowhere" not in text and "&lt;b&gt;nowhere" in text
    assert "default-src 'none'" in text and "connect-src 'self'" in text
    assert page.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in page.headers


def test_every_field_of_a_merging_can_be_set():
    for strategy, known in THRESHOLDS.items():
        merging = PanopticMerging(strategy)
        for name, threshold in known.items():
            changed = with_thresholds(merging, {name: "0.125"})
            assert threshold.value(changed) == 0.125
            assert threshold.set(changed, threshold.value(merging)) == merging


def test_command_says_what_is_wrong(capsys, server):
    assert run_command("serve", ["--weights", "nowhere", "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere: there is no such file")
    assert run_command("serve", ["--weights", "x", "--port", str(server.port)]) == 1
    assert f"--port {server.port}: Address already in use" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run_command("serve", ["--weights", "x", "--port", "65536"])
    assert "expected a port from 0 to 65535" in capsys.readouterr().err
