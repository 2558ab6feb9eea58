"""Damaged reports: one line that says so, or a page; never a traceback."""

import json
from random import Random

from fuzz.fuzzing import mutated_bytes, mutated_document, run_cases
from segcore.errors import DataError
from segcore.report.comparison import compare
from segcore.report.page import DATA_TAG

QUALITY = {"pq": 40.0, "sq": 80.0, "rq": 50.0}
MAP = {"size": [2, 1], "data": "eJxjZAQAAAUAAw==", "bytes": 1}
REPORT = {
    "version": 1,
    "kind": "evaluation",
    "title": "a model",
    "date": "today",
    "settings": [["SEED", "1"]],
    "config": "SEED: 1\nMODEL:\n  DEVICE: cpu\n",
    "tasks": [{"name": "sem_seg", "title": "x", "overall": [["mIoU", 1.0]], "metrics": []}],
    "curves": {},
    "panoptic": {
        "groups": [{"name": name, **QUALITY, "num": 1} for name in ("all", "things", "stuff")],
        "sizes": [{"name": "small", **QUALITY, "num": 1}],
        "classes": [{**QUALITY, "tp": 1, "fp": 0, "fn": 2, "occurs": True}],
        "costs": [{"name": "all", "parts": {"missed": 60.0}}],
        "confusion": [[0, 0, 1]],
    },
    "categories": [{"name": "cat", "thing": True, "color": [1, 2, 3]}],
    "photos": [
        {
            **{"file": "x.jpg", "id": "1", "quality": 40.0, "picture": None, "by_class": {}},
            "truth": {**MAP, "segments": [{"class": 0, "text": "missed", "found": 0}]},
            "prediction": {**MAP, "segments": [{"class": 0, "text": "matched", "iou": 0.8}]},
        }
    ],
}


def test_damaged_reports(tmp_path, monkeypatch):
    sound, damaged, output = (tmp_path / name for name in ("a.html", "b.html", "out.html"))

    def page(document: object) -> bytes:
        return f"{DATA_TAG}{json.dumps(document)}</script>".encode(errors="replace")

    sound.write_bytes(page(REPORT))
    compare(sound, sound, output)
    assert "a model" in output.read_text()
    # To write a page takes much longer than all before it.
    monkeypatch.setattr("segcore.report.comparison.write_page", lambda *_, **__: None)

    def make(random: Random) -> bytes:
        if random.random() < 0.5:
            return mutated_bytes(page(REPORT), random)
        return page(mutated_document(REPORT, random))

    def use(content: bytes) -> None:
        damaged.write_bytes(content)
        compare(sound, damaged, output)

    assert run_cases("report", make, use, DataError) > 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "b.html", "out.html"}
