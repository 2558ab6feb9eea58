"""Downloads from a server on this machine: whole, slow, cut off, wrong, refused."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from segcore.errors import OutputError
from segcore.zoo.download import DownloadError, download


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "model.pkl"


def assert_complete(target, content):
    assert target.read_bytes() == content
    rest = {path.name for path in target.parent.iterdir()} - {target.name, f"{target.name}.lock"}
    assert not rest


def test_whole_file_once(server, target):
    for _ in range(2):
        download(f"{server.address}/a/model.pkl", target)
    assert_complete(target, server.content)
    assert server.requests == [None]


def test_slow_server_with_many_readers(server, target):
    server.pause = 0.2
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: download(server.address, target), range(4)))
    assert_complete(target, server.content)
    assert len(server.requests) == 1


def test_connections_that_end_early_are_continued(server, target):
    server.cut_after = [100_000, 70_001]
    download(server.address, target)
    assert_complete(target, server.content)
    assert server.requests == [None, "bytes=100000-", "bytes=170001-"]


def test_later_call_continues(server, target):
    server.cut_after = [100_000, 0]
    with pytest.raises(DownloadError, match="ended after 100,000 of 300,000 bytes"):
        download(server.address, target)
    assert not target.exists()
    download(server.address, target)
    assert_complete(target, server.content)
    assert server.requests[-1] == "bytes=100000-"


def test_server_that_stops_sending(server, target):
    server.pause = 10
    with pytest.raises(DownloadError, match=r"connection ended after|timed out"):
        download(server.address, target, timeout=0.1)
    assert not target.exists()


def test_ranges_are_ignored(server, target):
    server.takes_ranges = False
    server.cut_after = [100_000]
    download(server.address, target)
    assert_complete(target, server.content)


def test_ranges_are_ignored_and_every_connection_ends(server, target):
    server.takes_ranges = False
    server.cut_after = [100_000] * 3
    with pytest.raises(DownloadError, match="ended after 100,000"):
        download(server.address, target)
    assert len(server.requests) == 2


def test_another_file_stands_there_by_now(server, target):
    server.cut_after = [100_000, 0]
    with pytest.raises(DownloadError):
        download(server.address, target)
    server.content, server.tag = server.content[::-1], '"second"'
    download(server.address, target)
    assert_complete(target, server.content)


def test_what_is_left_is_longer_than_the_file(server, target):
    target.parent.mkdir()
    target.with_name("model.pkl.part").write_bytes(server.content + b"more")
    target.with_name("model.pkl.part.tag").write_text(server.tag)
    download(server.address, target)
    assert_complete(target, server.content)


def test_what_is_left_is_of_unknown_origin(server, target):
    target.parent.mkdir()
    target.with_name("model.pkl.part").write_bytes(b"something else")
    download(server.address, target)
    assert_complete(target, server.content)
    assert server.requests == [None]


def test_stated_length_is_never_reached(server, target):
    server.stated_length = "400000"
    with pytest.raises(DownloadError, match=r"ended after 300,000 of 400,000 bytes"):
        download(server.address, target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("status", 404, "HTTP 404 Not Found"),
        ("status", 503, "HTTP 503"),
        ("stated_length", "", "does not state the length"),
        ("content_type", "text/html; charset=utf-8", "a web page"),
    ],
)
def test_refusals(server, target, setting, value, message):
    setattr(server, setting, value)
    with pytest.raises(DownloadError, match=message):
        download(server.address, target)
    assert not target.exists()


def test_nobody_answers(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="Connection refused"):
        download(f"http://127.0.0.1:{port}/model.pkl", target)


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/model\.pkl: cannot be written"):
        download(server.address, tmp_path / "file" / "model.pkl")
