"""A fixture that compares arrays, and one table of every case at the end of the run."""

import pytest

from parity.golden import Comparison

PROPERTY = "parity"


@pytest.fixture
def comparison(record_property):
    """Collects comparisons; the test ends with ``comparison.check()``."""
    comparison = Comparison()
    yield comparison
    if comparison.rows:
        values = (len(comparison.rows), *comparison.worst, ", ".join(comparison.not_compared))
        record_property(PROPERTY, values)


def pytest_terminal_summary(terminalreporter):
    rows = {
        report.nodeid.split("::", 1)[-1]: value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown" or hasattr(report, "user_properties")
        for name, value in report.user_properties
        if name == PROPERTY
    }
    if not rows:
        return
    terminalreporter.section("parity with the golden cases")
    width = max(len(case) for case in rows)
    for case, (count, array, error, tolerance, not_compared) in sorted(rows.items()):
        terminalreporter.line(
            f"{case:<{width}}  {count:>4} arrays  worst error {error:8.2e}"
            f"  tolerance {tolerance:8.2e}  ({array})"
        )
        if not_compared:
            terminalreporter.line(f"{'':<{width}}  not compared: {not_compared}")
