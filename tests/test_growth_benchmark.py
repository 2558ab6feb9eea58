"""benchmarks/growth.py on tiny results."""

import json

import pytest
from benchmarks import growth
from benchmarks.growth import Point

REPLACED = Point("mask_wise", "results", 5, 5, 7.0, 8.0)


def points(axis: str, arithmetic: list[float], seconds: list[float]) -> list[Point]:
    cost = zip(range(len(seconds)), arithmetic, seconds, strict=True)
    return [Point("mask2former", axis, value, *rest, 0.0) for value, *rest in cost]


@pytest.mark.parametrize(
    ("axis", "arithmetic", "seconds", "expected"),
    [
        ("side", [1, 4, 16], [2, 8, 32], 1),
        ("side", [1, 4, 16], [2, 8, 64], 2),
        ("objects", [1, 50, 100, 200], [3 + 0.1 * n for n in (1, 50, 100, 200)], 1),
        ("objects", [0, 50, 100, 200], [3 + n**2 for n in (0, 50, 100, 200)], 3),
    ],
)
def test_growth_is_1_where_a_cost_grows_as_its_arithmetic(axis, arithmetic, seconds, expected):
    assert growth.growth(points(axis, arithmetic, seconds), seconds) == pytest.approx(expected)


def test_points_are_measured_once(tmp_path, monkeypatch):
    axis = growth.AXES["results"]._replace(values=(1, 3, 5))
    monkeypatch.setitem(growth.AXES, "results", axis)
    monkeypatch.setattr(growth, "MEGAPIXELS", 0.01)
    file = tmp_path / "growth.jsonl"
    measured = growth.measure_all(file, [], ["results"], 1)
    assert [point.value for point in measured] == [1, 3, 5] * 2
    assert all(point.seconds > 0 for point in measured)

    # The second time only the line that is removed is measured.
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    monkeypatch.setattr(growth, "measure", lambda run, repeats: (7.0, 8.0))
    assert growth.measure_all(file, [], ["results"], 1) == [*measured[:-1], REPLACED]
    assert [*map(json.loads, file.read_text().splitlines())][-1] == [*REPLACED]
    assert len(growth.table(measured).splitlines()) == 4  # headers, a line, two strategies
    time, memory = growth.plot(measured, ["results"]).axes
    assert len(time.lines) == len(memory.lines) == 2
