"""Files from the internet: downloaded once into the user's cache, resumable, verified, and whole or absent."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nat2.errors import DownloadError
from nat2.progress import SILENT, FoundDone, Reporter

CACHE, OFFLINE = "NAT2_CACHE", "NAT2_OFFLINE"
"""Environment variables: the cache folder, and whether downloads are forbidden."""

_ATTEMPTS = 5  # in a row without a byte gained
_PAUSE = 0.5  # seconds before the second attempt, twice as many before each further one
_TIMEOUT = 30.0  # seconds in which a server has to answer
_LASTING = (socket.gaierror, ssl.SSLCertVerificationError)  # another attempt will not help
_CHUNK = 2**16
_MEGABYTE = 10**6
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_NOT_FILES = {b"<": "a web page", b"version https://git-lfs": "a Git LFS pointer"}


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a server."""

    name: str
    """What the user calls it."""
    url: str
    """Its address; http or https."""
    sha256: str = ""
    """Its checksum; if empty, the one recorded at the first download counts."""

    @property
    def path(self) -> Path:
        """Where it is in the cache."""
        return cache_folder() / self.url.rpartition("/")[2]


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where downloads are kept: `NAT2_CACHE`, or the folder ``nat2`` in the user's cache folder.

    Args:
        environment: That of this process by default.
    """
    environment = os.environ if environment is None else environment
    if environment.get(CACHE):
        return Path(os.path.expanduser(environment[CACHE]))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nat2"
    given = environment.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "nat2"


def is_offline(environment: Mapping[str, str] | None = None) -> bool:
    """Whether `NAT2_OFFLINE` forbids downloads."""
    environment = os.environ if environment is None else environment
    return environment.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no", "off")


def fetch(remote: Remote, check: Callable[[Path], None], *, progress: Reporter = SILENT) -> Path:
    """The file in the cache, downloaded if it is not there. Proxies are those of the environment.

    Processes that want the same file wait for the one that downloads it.

    Args:
        remote: The file.
        check: Called with the path of a new file; raises a Nat2Error if it is not what was meant.
        progress: Shows the download, and says where the file is kept.

    Raises:
        DownloadError: it cannot be downloaded or written, is not the expected one, or `NAT2_OFFLINE` is set.
        Nat2Error: what `check` raises.
    """
    path, record = remote.path, remote.path.with_name(remote.path.name + ".sha256")
    try:
        if not path.is_file() and is_offline():
            raise DownloadError(
                f"{remote.name} is not in the cache and {OFFLINE} is set; unset it, or download {remote.url} elsewhere "
                f"and put the file at {path}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or not record.is_file():
            with _locked(path.with_name(path.name + ".lock")):
                if not path.is_file():
                    _download(remote, check, record, progress)
                elif not record.is_file():  # put there by hand
                    check(path)
                    _record(remote, path, record, progress)
        _verify(remote, path, record)
    except OSError as error:
        raise DownloadError(
            f"{error.filename or path} cannot be read or written ({error.strerror or error}); choose another cache "
            f"folder with the environment variable {CACHE}"
        ) from error
    return path


def _download(remote: Remote, check: Callable[[Path], None], record: Path, progress: Reporter) -> None:
    """Fill the part file, check it and put it in place."""
    part = remote.path.with_name(remote.path.name + ".part")
    _Transfer(remote, part, progress).run()
    progress.rest()
    try:
        expected, found = _expected(remote, record), _sha256(part)
        if expected and found != expected:
            fix = "" if remote.sha256 else f"; to accept the new file, delete {record} and try again"
            raise DownloadError(f"{remote.url} sent another file than before: SHA-256 {found}, not {expected}{fix}")
        check(part)
    except Exception:
        _discard(part)
        raise
    with part.open("rb") as file:
        os.fsync(file.fileno())
    _record(remote, part, record, progress)
    part.replace(remote.path)
    _discard(part)
    progress.say(f"{remote.name} is kept at {remote.path}")


def _record(remote: Remote, path: Path, record: Path, progress: Reporter) -> None:
    """Note the checksum of a checked file, in the format of ``sha256sum``."""
    if record.is_file():
        return
    found = _sha256(path)
    if remote.sha256 and found != remote.sha256:
        raise DownloadError(f"{path} is not the published {remote.name}: SHA-256 {found}, not {remote.sha256}")
    record.write_text(f"{found}  {remote.path.name}\n", encoding="utf-8")
    if not remote.sha256:
        progress.say(f"no checksum of {remote.name} is published; SHA-256 {found} is recorded and verified from now on")


def _expected(remote: Remote, record: Path) -> str:
    """The checksum that the file must have; empty if it is not known yet."""
    if remote.sha256 or not record.is_file():
        return remote.sha256
    match = re.match(r"[0-9a-f]{64}\b", record.read_text(encoding="utf-8", errors="replace"))
    if match is None:
        raise DownloadError(f"{record} does not hold a checksum; delete it to record that of the file again")
    return match[0]


def _verify(remote: Remote, path: Path, record: Path) -> None:
    expected, found = _expected(remote, record), _sha256(path)
    if found != expected:
        raise DownloadError(
            f"{path} has changed since it was downloaded: SHA-256 {found}, not {expected}; delete it to download it "
            "again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process downloads this file."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validators_of(part).unlink(missing_ok=True)


def _validators_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


class _InterruptedError(Exception):
    """The connection ended before the file did."""


class _Transfer:
    """One download, over as many connections as it takes; the part file is continued where it ended."""

    def __init__(self, remote: Remote, part: Path, progress: Reporter) -> None:
        self.remote, self.part, self.progress = remote, part, progress
        self.shown = -1  # megabytes reported so far; -1 before the stage has begun

    def run(self) -> None:
        """Fill the part file.

        Raises:
            DownloadError: the server does not have the file, does not answer, or sends something else.
        """
        failures, reason, most = 0, "it sends nothing", self._size()
        while failures < _ATTEMPTS:
            try:
                if self._connect(self._size()):
                    return
            except (_InterruptedError, OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.filename is not None:  # a file of ours, not the connection
                    raise
                reason = _reason(error)
                if isinstance(getattr(error, "reason", None), _LASTING):
                    break
            failures = 0 if self._size() > most else failures + 1
            most = max(most, self._size())
            if 0 < failures < _ATTEMPTS:
                time.sleep(_PAUSE * 2 ** (failures - 1))
        raise DownloadError(
            f"{self.remote.name} could not be downloaded from {self.remote.url} ({reason}); check the network and the "
            f"proxy settings and try again, or download the file yourself and put it at {self.remote.path}. "
            + (f"The {self._size():,} bytes received so far are kept" if self._size() else "")
        )

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _connect(self, offset: int) -> bool:
        """Receive what one connection brings; whether the file is complete."""
        known = self._validators() if offset else {}
        headers = {"User-Agent": "nat2", "Accept-Encoding": "identity"}
        if known:
            headers["Range"] = f"bytes={offset}-"
        request = urllib.request.Request(self.remote.url, headers=headers)
        try:
            # A new opener, because that of `urlopen` keeps the proxies of its first call.
            response = urllib.request.build_opener().open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    complete = error.headers.get("Content-Range", "") == f"bytes */{offset}"
                    if not complete:
                        _discard(self.part)
                    return complete
                if error.code in _TRANSIENT:
                    raise _InterruptedError(f"the server answers {error.code} {error.reason}") from error
            raise DownloadError(
                f"{self.remote.url} is not available (the server answers {error.code} {error.reason}); if you have the "
                f"file, put it at {self.remote.path}"
            ) from error
        with response:
            return self._receive(response, offset, known)

    def _receive(self, response: http.client.HTTPResponse, offset: int, known: Mapping[str, str]) -> bool:
        if "html" in response.headers.get("Content-Type", ""):
            raise DownloadError(f"{self.remote.url} {_SENT_INSTEAD.format('a web page')}")
        range_of = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        partial = response.status == http.client.PARTIAL_CONTENT
        if partial:
            total = int(range_of[2]) if range_of and range_of[2] != "*" else None
        found = {name: response.headers[name] for name in ("ETag", "Last-Modified") if name in response.headers}
        found |= {"size": str(total)} if total is not None else {}
        if partial and (range_of is None or int(range_of[1]) != offset or found != known):
            _discard(self.part)
            raise _InterruptedError("the file on the server has changed, or another part of it was sent")
        if not partial:
            offset = 0
            self.part.open("wb").close()  # first, so that the validators never belong to older bytes
            _validators_of(self.part).write_text(json.dumps(found), encoding="utf-8")
        self._begin(total, offset)
        with self.part.open("ab") as file:
            self._copy(response, file, first=offset == 0)
        if total is not None and self._size() != total:
            if self._size() > total:
                _discard(self.part)
            raise _InterruptedError(f"the connection ended after {self._size():,} of {total:,} bytes")
        return self._size() > 0

    def _validators(self) -> dict[str, str]:
        """What identifies the version of the file that the part belongs to; empty if the part cannot be continued."""
        try:
            known = json.loads(_validators_of(self.part).read_text(encoding="utf-8"))
            return {str(name): str(value) for name, value in known.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _begin(self, total: int | None, offset: int) -> None:
        if self.shown < 0:
            self.progress.stage(f"download {self.remote.name}", MB=-(-(total or 0) // _MEGABYTE))
            self.shown = offset // _MEGABYTE
            self.progress.step(FoundDone(self.shown))

    def _copy(self, response: http.client.HTTPResponse, file: IO[bytes], *, first: bool) -> None:
        while chunk := response.read(_CHUNK):
            if first:
                start = chunk.lstrip()
                for sign, what in _NOT_FILES.items():
                    if start.startswith(sign):
                        file.close()
                        _discard(self.part)
                        raise DownloadError(f"{self.remote.url} {_SENT_INSTEAD.format(what)}")
                first = False
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:  # name the file, so that it is not taken for the connection
                raise OSError(error.errno, error.strerror, str(self.part)) from error
            done = file.tell() // _MEGABYTE
            if done > self.shown:
                self.progress.step(done - self.shown)
                self.shown = done


_SENT_INSTEAD = (
    "sent {} instead of the file: perhaps a login page of the network, or the file has moved; download it in a browser"
)


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection ended after {len(error.partial):,} bytes of a part"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(cause) or type(cause).__name__
