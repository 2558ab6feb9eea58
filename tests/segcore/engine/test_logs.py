"""Messages of a run on the terminal and in its log."""

import logging
from collections.abc import Iterator

import pytest
from detectron2.utils.logger import setup_logger

from segcore.engine.logs import FILE_ONLY, package_names, record_setup, run_log
from segcore.errors import DataError, OutputError


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in package_names()]
    before = [(log.propagate, log.level, list(log.handlers)) for log in loggers]
    setup_logger.cache_clear()
    yield
    setup_logger.cache_clear()
    for log, (propagate, level, handlers) in zip(loggers, before, strict=True):
        log.propagate, log.level, log.handlers = propagate, level, handlers


def test_every_project_is_heard(tmp_path, capsys):
    packages = package_names()
    assert {"detectron2", "segcore", "autofocusformer", "panoptic_segformer"} <= set(packages)
    with run_log(tmp_path):
        for package in packages:
            logging.getLogger(f"{package}.part").warning("from %s", package)
    logging.getLogger("segcore").warning("after the run")
    log = (tmp_path / "log.txt").read_text()
    printed = capsys.readouterr().out
    for package in packages:
        assert log.count(f"from {package}\n") == printed.count(f"from {package}\n") == 1
    assert "after the run" not in log


def test_long_messages_and_explained_tracebacks_are_for_the_file(tmp_path, capsys):
    with run_log(tmp_path):
        log = logging.getLogger("detectron2.engine")
        log.info("long text", extra=FILE_ONLY)
        for error in (DataError("known"), KeyError("bug")):
            try:
                raise error
            except Exception:
                log.exception("Exception during training:")
    written, printed = (tmp_path / "log.txt").read_text(), capsys.readouterr().out
    assert "long text" in written
    assert "long text" not in printed
    assert "DataError: known" in written
    assert "DataError" not in printed
    assert "KeyError: 'bug'" in printed


def test_setup_is_recorded(cfg, tmp_path, capsys):
    with run_log(tmp_path):
        record_setup(cfg, tmp_path)
    assert "EngineTestNet" in (tmp_path / "config.yaml").read_text()
    assert "PyTorch" in (tmp_path / "log.txt").read_text()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_log_that_cannot_be_opened(tmp_path):
    (tmp_path / "log.txt").mkdir()
    refused = pytest.raises(OutputError, match=r"log\.txt: cannot be written: Is a directory")
    with refused, run_log(tmp_path):
        pass


def test_full_disk_silences_the_log_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)  # as run_program does
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with run_log(tmp_path):
        logging.getLogger("segcore").info("message")
    captured = capsys.readouterr()
    assert "message" in captured.out
    assert captured.err == ""
