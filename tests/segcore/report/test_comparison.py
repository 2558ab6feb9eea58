"""Two reports in one page."""

import json
import re

import pytest

from segcore.cli import run_command
from segcore.report.comparison import read_report
from segcore.report.page import DATA_TAG, finite

from .conftest import HOSTILE


def test_report_is_read_as_it_was_written(report):
    expected = json.loads(json.dumps(finite(report.content)))
    assert read_report(report.path) == read_report(report.path.parent) == expected


def test_page_has_the_differences(report, comparison):
    page = comparison.read_text()
    assert HOSTILE not in page and page.count("<script") == 2
    data = json.loads(re.search(re.escape(DATA_TAG) + "(.*?)</script>", page)[1])
    first, second = read_report(report.path), read_report(comparison.parent)
    row = data["panoptic"]["rows"][0]
    pq = [content["panoptic"]["groups"][0]["pq"] for content in (first, second)]
    assert row["name"] == "all" and row["pq"]["difference"] == pytest.approx(pq[1] - pq[0])
    assert pq[1] < pq[0]
    boundary = [content["panoptic"]["groups"][0]["boundary_pq"] for content in (first, second)]
    assert [data["panoptic"]["rows"][0]["boundary_pq"][run] for run in "ab"] == boundary
    assert "boundary PQ change" in page
    costs = data["panoptic"]["costs"]
    assert sum(row["difference"] for row in costs) == pytest.approx(pq[0] - pq[1])
    assert [photo["id"] for photo in data["photos"]] == ["2", "0", "1"]
    assert [row[0] for row in data["settings"]] == ["OUTPUT_DIR"]
    assert data["tasks"][1]["rows"][0] == {"name": "mIoU", "a": None, "b": None, "difference": None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("<html></html>", "expected the report of an evaluation, version 1, got another page"),
        (DATA_TAG + "[" * 10_000 + "</script>", "got another page"),
        (DATA_TAG + '{"kind": "data"}</script>', "got data"),
        (DATA_TAG + '{"kind": "evaluation", "version": 1}</script>', "as an evaluation writes"),
    ],
)
def test_other_files_are_refused(report, tmp_path, capsys, content, message):
    path = tmp_path / "x.html"
    if content is not None:
        path.write_text(content)
    assert run_command("compare", [str(report.path), str(path)]) == 1
    error = capsys.readouterr().err
    assert message in error and "x.html" in error and error.count("\n") <= 3
