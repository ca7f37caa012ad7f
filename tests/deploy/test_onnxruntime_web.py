"""The npm package for browsers: from the user, the cache or the registry, and only as it was published."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from nat2.deploy import onnxruntime_web as module
from nat2.deploy.onnxruntime_web import VERSION, WebRuntime, cache_folder, web_runtime
from nat2.errors import ConfigError, Nat2Error, RunError

FILES = {
    "ort.wasm.min.js": b"var ort",
    "ort-wasm-simd-threaded.mjs": b"export",
    "ort-wasm-simd-threaded.wasm": b"\0asm",
}
EXPECTED = WebRuntime(VERSION, "var ort", "export", b"\0asm")


def tarball(files: dict[str, bytes] = FILES, *, version: str = VERSION) -> bytes:
    """A package as npm packs it, with things that nobody needs."""
    packed = io.BytesIO()
    contents = {f"package/dist/{name}": content for name, content in files.items()}
    contents |= {
        "package/package.json": json.dumps({"version": version}).encode(),
        "package/lib/ort.wasm.min.js": b"no",
    }
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


PUBLISHED = tarball()  # once: archives hold the time


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A registry that has a small package, and an empty cache; the addresses that were asked for."""
    asked: list[str] = []

    def urlopen(address: str, timeout: float) -> Any:
        asked.append(address)
        return io.BytesIO(PUBLISHED)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(module, "_SHA256", {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()})
    monkeypatch.setattr(module, "_TARBALL_SHA512", hashlib.sha512(PUBLISHED).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry"):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_it_is_downloaded_once_and_again_when_the_cache_is_damaged(published: list[str], tmp_path: Path) -> None:
    address = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    assert web_runtime() == web_runtime() == EXPECTED
    assert published == [address]
    kept = tmp_path / "cache" / "nat2" / f"onnxruntime-web-{VERSION}"
    assert {path.name for path in kept.iterdir()} == set(FILES)
    (kept / "ort.wasm.min.js").write_bytes(b"cut off")
    assert web_runtime("") == EXPECTED
    (kept / "ort-wasm-simd-threaded.wasm").unlink()
    assert web_runtime(None) == EXPECTED
    assert published == [address] * 3


def test_a_mirror_is_asked_if_there_is_one(published: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", "https://mirror.example/npm/")
    web_runtime()
    assert published == [f"https://mirror.example/npm/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"]


@pytest.mark.parametrize("root", ["", "relative"])
def test_the_cache_is_below_the_home_by_default(root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", root)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "nat2"


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route to host"), TimeoutError("timed out"), ValueError("unknown url type")]
)
def test_without_a_network_the_way_out_is_named(
    published: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def offline(address: str, timeout: float) -> Any:
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(
        RunError, match=rf"cannot be downloaded .*npm pack onnxruntime-web@{VERSION}.*--onnxruntime_web"
    ):
        web_runtime()
    assert not (tmp_path / "cache").exists()


def test_something_else_than_was_published_is_not_kept(
    published: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_TARBALL_SHA512", "0" * 128)
    with pytest.raises(RunError, match="not the file that was published"):
        web_runtime()
    assert not (tmp_path / "cache").exists()


def places(root: Path) -> list[Path]:
    """The package in all the ways a user may have it."""
    (root / "npm.tgz").write_bytes(tarball())
    with tarfile.open(root / "npm.tgz") as archive:
        archive.extractall(root / "extracted", filter="data")
    package = root / "extracted" / "package"
    shutil.copytree(package, root / "app" / "node_modules" / "onnxruntime-web")
    shutil.copytree(package / "dist", root / "files")
    modules = root / "app" / "node_modules"
    return [
        root / "npm.tgz", root / "extracted", package, package / "dist", root / "app", modules,
        modules / "onnxruntime-web",
    ]  # fmt: skip


def test_a_package_that_is_given_is_taken_wherever_it_lies(published: list[str], tmp_path: Path) -> None:
    for place in places(tmp_path):
        assert web_runtime(place) == EXPECTED, place
    assert web_runtime(tmp_path / "files") == WebRuntime("unknown", "var ort", "export", b"\0asm")
    (tmp_path / "newer.tgz").write_bytes(tarball(FILES | {"ort.wasm.min.js": b"new"}, version="9.0.0"))
    assert web_runtime(str(tmp_path / "newer.tgz")) == WebRuntime("9.0.0", "new", "export", b"\0asm")
    assert not published


def test_a_package_that_is_no_such_package_is_refused(published: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.tgz").write_bytes(tarball()[:200])
    (tmp_path / "photo.tgz").write_bytes(b"\xff\xd8")
    (tmp_path / "changed.tgz").write_bytes(tarball(FILES | {"ort.wasm.min.js": b"mine"}))
    (tmp_path / "less.tgz").write_bytes(tarball({"ort.wasm.min.js": b"var ort"}))
    refused: list[tuple[str, type[Nat2Error], str]] = [
        ("nowhere.tgz", ConfigError, "does not exist"),
        ("empty", RunError, "it has no ort.wasm.min.js"),
        ("cut.tgz", RunError, "is not the npm package"),
        ("photo.tgz", RunError, "is not the npm package"),
        ("changed.tgz", RunError, "its checksums differ"),
        ("less.tgz", RunError, "it has no ort-wasm-simd-threaded.mjs"),
    ]
    for name, kind, message in refused:
        with pytest.raises(kind, match=message):
            web_runtime(tmp_path / name)
    with pytest.raises(ConfigError, match="downloads nothing"):
        web_runtime("https://example.org/onnxruntime-web.tgz")
