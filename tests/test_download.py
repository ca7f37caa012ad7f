"""Downloads: whole, resumed and verified, whatever the server does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nat2.download import Remote, cache_folder, fetch, is_offline
from nat2.errors import DownloadError
from nat2.progress import Reporter

CONTENT = np.random.default_rng(0).integers(0, 256, 2_300_000, dtype=np.uint8).tobytes()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked for."""

    content: bytes = CONTENT
    etag: str | None = '"1"'
    ranges: bool = True
    cut: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers breaks off."""
    claimed: int | None = None
    """The Content-Length of whole answers, if not the true one."""
    status: list[int] = field(default_factory=list)
    """Statuses of the next answers, instead of the file."""
    kind: str = "application/octet-stream"
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers["Range"])
            if state.status:
                self.send_error(state.status.pop(0))
                return
            first = (
                int(self.headers["Range"].split("=")[1].rstrip("-")) if self.headers["Range"] and state.ranges else 0
            )
            whole, size = not first, len(state.content)
            if first >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.content[first:]
            self.send_response(200 if whole else 206)
            self.send_header("Content-Type", state.kind)
            length = len(body) if state.claimed is None or not whole else state.claimed
            if length >= 0:
                self.send_header("Content-Length", str(length))
            if state.etag:
                self.send_header("ETag", state.etag)
            if not whole:
                self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
            self.end_headers()
            if state.cut:
                body = body[: state.cut.pop(0)]
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/weights.pth"
        monkeypatch.setenv("NAT2_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("NAT2_OFFLINE", raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr("nat2.download._PAUSE", 0.001)
        yield state
        http.shutdown()
        thread.join()


class Lines(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[int] = []
        self.total = 0

    def stage(self, name: str, **totals: int) -> None:
        self.said.append(name)
        (self.total,) = totals.values()

    def step(self, count: int = 1, *, unit: str = "") -> None:
        self.steps.append(int(count))

    def say(self, message: str) -> None:
        self.said.append(message)


def anything(path: Path) -> None:
    """Accept every file."""


def only(content: bytes) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        if path.read_bytes() != content:
            raise DownloadError("not the file")

    return check


def remote(server: Server, sha256: str = "") -> Remote:
    return Remote(name="weights", url=server.url, sha256=sha256)


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_downloaded_once_and_its_checksum_recorded(server: Server, tmp_path: Path) -> None:
    lines = Lines()
    path = fetch(remote(server), anything, progress=lines)
    assert path.read_bytes() == CONTENT
    assert kept(tmp_path) == ["weights.pth", "weights.pth.sha256"]
    assert (tmp_path / "cache" / "weights.pth.sha256").read_text() == f"{DIGEST}  weights.pth\n"
    assert lines.said[0] == "download weights"
    assert (lines.total, sum(lines.steps)) == (3, 2)
    assert f"no checksum of weights is published; SHA-256 {DIGEST} is recorded" in lines.said[1]
    assert fetch(remote(server), anything) == path
    assert server.asked == [None]


def test_a_broken_connection_is_continued_where_it_ended(server: Server) -> None:
    server.cut = [1_000_000, 500_000]
    assert fetch(remote(server, DIGEST), anything).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]


def test_an_interrupted_download_is_continued_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.cut, server.ranges = [700_000, *[0] * 10], True
    with pytest.raises(DownloadError, match=r"could not be downloaded.*700,000 of 2,300,000 bytes.*are kept"):
        fetch(remote(server), anything)
    assert kept(tmp_path) == ["weights.pth.part", "weights.pth.part.json"]
    server.cut.clear()
    server.asked.clear()
    lines = Lines()
    assert fetch(remote(server), anything, progress=lines).read_bytes() == CONTENT
    assert server.asked == ["bytes=700000-"]


@pytest.mark.parametrize("change", ["etag", "size"])
def test_a_file_that_changed_meanwhile_is_started_over(server: Server, change: str) -> None:
    server.cut = [700_000, *[0] * 10]
    with pytest.raises(DownloadError):
        fetch(remote(server), anything)
    server.cut.clear()
    server.content = bytes(2_300_000) if change == "etag" else CONTENT[::-1] + b"more"
    server.etag = '"2"' if change == "etag" else '"1"'
    assert fetch(remote(server), anything).read_bytes() == server.content


def test_a_server_that_ignores_ranges_sends_all_again(server: Server) -> None:
    server.ranges, server.cut = False, [1_000_000]
    assert fetch(remote(server), anything).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-"]


def test_a_server_that_always_breaks_off_is_given_up(server: Server) -> None:
    server.ranges, server.cut = False, [100_000, 50_000] * 20
    with pytest.raises(DownloadError, match="the connection ended after"):
        fetch(remote(server), anything)
    assert len(server.asked) <= 7


def test_too_large_a_length_is_found_out(server: Server, tmp_path: Path) -> None:
    server.claimed = len(CONTENT) + 1000
    assert fetch(remote(server), only(CONTENT)).read_bytes() == CONTENT  # the server knows that there is no more
    (tmp_path / "cache" / "weights.pth").unlink()
    server.ranges = False
    with pytest.raises(DownloadError, match=r"2,300,000 of 2,301,000 bytes"):
        fetch(remote(server), anything)


def test_too_small_a_length_leaves_a_file_that_is_refused(server: Server, tmp_path: Path) -> None:
    server.claimed = 1_000_000
    with pytest.raises(DownloadError, match="not the file"):
        fetch(remote(server), only(CONTENT))
    with pytest.raises(DownloadError, match=f"not {DIGEST}"):
        fetch(remote(server, DIGEST), anything)
    assert kept(tmp_path) == []


def test_no_length_at_all_is_fine(server: Server) -> None:
    server.claimed = -1
    assert fetch(remote(server, DIGEST), anything).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (b"\n <!DOCTYPE html><p>log in", "application/octet-stream", "a web page instead of the file"),
        (b"log in", "text/html; charset=utf-8", "a web page instead of the file"),
        (b"version https://git-lfs.github.com/spec/v1", "text/plain", "a Git LFS pointer"),
    ],
)
def test_other_content_is_named(server: Server, tmp_path: Path, content: bytes, kind: str, told: str) -> None:
    server.content, server.kind = content, kind
    with pytest.raises(DownloadError, match=told):
        fetch(remote(server), anything)
    assert kept(tmp_path) == []


def test_nothing_at_all_is_no_file(server: Server, tmp_path: Path) -> None:
    server.content, server.ranges = b"", False
    with pytest.raises(DownloadError):
        fetch(remote(server), anything)
    assert not (tmp_path / "cache" / "weights.pth").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_is_not_there_is_not_asked_for_again(server: Server, status: int) -> None:
    server.status = [status]
    with pytest.raises(DownloadError, match=rf"answers {status} .*put it at .*weights.pth"):
        fetch(remote(server), anything)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.status = [status, status]
    assert fetch(remote(server), anything).read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_another_file_than_recorded_is_refused(server: Server, tmp_path: Path) -> None:
    path = fetch(remote(server), anything)
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(DownloadError, match=r"sent another file than before.*delete .*weights.pth.sha256"):
        fetch(remote(server), anything)
    assert kept(tmp_path) == ["weights.pth.sha256"]
    path.write_bytes(server.content)
    with pytest.raises(DownloadError, match=r"has changed since it was downloaded.*delete it to download it again"):
        fetch(remote(server), anything)
    (tmp_path / "cache" / "weights.pth.sha256").write_text("nonsense")
    with pytest.raises(DownloadError, match="does not hold a checksum"):
        fetch(remote(server), anything)


def test_a_file_put_there_by_hand_is_checked_and_recorded(server: Server, tmp_path: Path) -> None:
    server.status = [404]
    target = remote(server).path
    target.parent.mkdir()
    target.write_bytes(b"something else")
    with pytest.raises(DownloadError, match="not the file"):
        fetch(remote(server), only(CONTENT))
    with pytest.raises(DownloadError, match="not the published weights"):
        fetch(remote(server, DIGEST), anything)
    target.write_bytes(CONTENT)
    assert fetch(remote(server), only(CONTENT)) == target
    assert kept(tmp_path) == ["weights.pth", "weights.pth.sha256"]
    assert not server.asked


def test_offline_means_the_cache_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAT2_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"NAT2_OFFLINE is set.*put the file at"):
        fetch(remote(server), anything)
    assert not server.asked
    monkeypatch.setenv("NAT2_OFFLINE", "0")
    fetch(remote(server), anything)
    monkeypatch.setenv("NAT2_OFFLINE", "true")
    assert fetch(remote(server), anything).read_bytes() == CONTENT


@pytest.mark.parametrize(("value", "offline"), [("", False), ("0", False), ("no", False), ("1", True), ("yes", True)])
def test_what_offline_is(value: str, offline: bool) -> None:
    assert is_offline({"NAT2_OFFLINE": value}) is offline
    assert not is_offline({})


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder({"NAT2_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/nat2")
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache" / "nat2"
    assert cache_folder({"NAT2_CACHE": "~/c"}) == Path.home() / "c"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder({}) == Path.home() / "Library" / "Caches" / "nat2"


def test_several_at_once_download_once(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(remote(server), anything), range(4)))
    assert paths[0].read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_without_a_server_there_is_an_error_in_words(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Remote(name="weights", url="http://127.0.0.1:9/weights.pth")
    with pytest.raises(DownloadError, match=r"could not be downloaded from http://127.0.0.1:9.*refused.*proxy"):
        fetch(gone, anything)
    nowhere = Remote(name="weights", url="http://nowhere.invalid/weights.pth")
    monkeypatch.setattr("nat2.download._PAUSE", 60.0)  # names that do not exist are not tried again
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch(nowhere, anything)


def test_proxies_of_the_environment_are_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.rpartition("/")[0])
    assert fetch(Remote(name="weights", url="http://nowhere.invalid/weights.pth"), anything).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DownloadError, match=r"NAT2_CACHE"):
        fetch(remote(server), anything)


def test_a_full_disk_is_not_taken_for_the_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(remote(server).path).parent.mkdir()
    Path(f"{remote(server).path}.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"No space left on device.*NAT2_CACHE"):
        fetch(remote(server), anything)
    assert len(server.asked) == 1
