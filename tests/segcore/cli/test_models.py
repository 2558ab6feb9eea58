"""``segcore models``: all that match, all that is known of one."""

import pytest

import segcore
from segcore.cli import run


def test_lists_names_with_figures(capsys):
    assert run(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == segcore.list_models()
    assert any("PQ" in line for line in lines)


def test_says_all_of_one(capsys):
    name = segcore.list_models()[0]
    assert run(["models", name]) == 0
    printed = capsys.readouterr().out
    assert name in printed
    assert "https://" in printed and ".yaml" in printed


@pytest.mark.parametrize("pattern", ["nothing", "\x1b[2J"])
def test_no_such_model(pattern, capsys):
    assert run(["models", pattern]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {pattern.replace(chr(27), chr(92) + 'x1b')}: no published")
