"""ONNX Runtime for browsers: three files of an npm package, downloaded once, verified and kept in the user's cache."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from nat2.errors import ConfigError, RunError
from nat2.files import write_bytes
from nat2.validation import user_path

VERSION = "1.30.0"
"""The release that the page is tested with."""
FLAG = "--onnxruntime_web"
_PACKAGE = "onnxruntime-web"
_REGISTRY = "https://registry.npmjs.org"
_TARBALL_SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
_SCRIPT, _MODULE, _WASM = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
_SHA256 = {
    _SCRIPT: "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    _MODULE: "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    _WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""The smallest build: one provider (WebAssembly), and a binary without WebGPU."""
_TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class WebRuntime:
    """The files of onnxruntime-web that a page needs."""

    version: str
    script: str
    """Defines ``ort``; a classic script, which browsers also load from a file."""
    module: str
    """The JavaScript side of the WebAssembly binary."""
    wasm: bytes


def web_runtime(given: Path | str | None = None) -> WebRuntime:
    """The runtime: from the place that is given, else from the cache, else from the npm registry.

    Args:
        given: The package as ``npm pack onnxruntime-web`` writes it (.tgz), or a folder with it: extracted, a
            ``node_modules`` folder, or one that holds the three files.

    Raises:
        ConfigError: there is no such file or folder.
        RunError: it does not hold the package, a file is damaged, or the download fails.
    """
    if given:
        return _from_user(user_path(given, FLAG))
    cache = cache_folder() / f"{_PACKAGE}-{VERSION}"
    files = {name: path.read_bytes() for name in _SHA256 if (path := cache / name).is_file()}
    if not _intact(files):
        files = _downloaded()
        for name, content in files.items():
            write_bytes(cache / name, content)
    return _runtime(VERSION, files)


def cache_folder() -> Path:
    """Where downloads are kept: ``$XDG_CACHE_HOME/nat2``, by default ``~/.cache/nat2``."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root and Path(root).is_absolute() else Path.home() / ".cache") / "nat2"


def _intact(files: Mapping[str, bytes]) -> bool:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == _SHA256


def _runtime(version: str, files: Mapping[str, bytes]) -> WebRuntime:
    return WebRuntime(version, files[_SCRIPT].decode(), files[_MODULE].decode(), files[_WASM])


def _from_user(path: Path) -> WebRuntime:
    if not path.exists():
        raise ConfigError(f"{FLAG} {path} does not exist; name the file that `npm pack {_PACKAGE}@{VERSION}` writes")
    try:
        files = _from_folder(path) if path.is_dir() else _from_tarball(path.read_bytes())
        version = str(json.loads(files.pop("package.json", b"{}")).get("version", "unknown"))
        runtime = _runtime(version, files)
    except (OSError, KeyError, ValueError, AttributeError, EOFError, tarfile.TarError) as error:
        what = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise RunError(
            f"{FLAG} {path} is not the npm package {_PACKAGE} ({what}); name the file that "
            f"`npm pack {_PACKAGE}@{VERSION}` writes, or the folder of the package"
        ) from error
    if version == VERSION and not _intact(files):
        raise RunError(
            f"{FLAG} {path} is not {_PACKAGE} {VERSION} as it was published (its checksums differ); get it again with "
            f"npm pack {_PACKAGE}@{VERSION}"
        )
    return runtime


def _from_folder(folder: Path) -> dict[str, bytes]:
    """The files, wherever in the folder the package keeps them.

    Raises:
        KeyError: one is missing.
    """
    roots = (folder, folder / "package", folder / _PACKAGE, folder / "node_modules" / _PACKAGE, folder.parent)
    root = next((each for each in roots if (each / "package.json").is_file() and (each / "dist").is_dir()), folder)
    places = (root, root / "dist")
    return _collected(lambda name: next((path.read_bytes() for at in places if (path := at / name).is_file()), None))


def _from_tarball(content: bytes) -> dict[str, bytes]:
    """The files of a package as npm packs it; nothing is extracted to the disk.

    Raises:
        KeyError: one is missing.
        tarfile.TarError: it is no archive.
    """
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        members = {each.name.rpartition("/")[2]: each for each in archive if each.isfile() and _is_ours(each.name)}
        opened = {name: archive.extractfile(member) for name, member in members.items()}
        return _collected(lambda name: file.read() if (file := opened.get(name)) else None)


def _is_ours(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return (folder == "package/dist" and file in _SHA256) or name == "package/package.json"


def _collected(read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    found = {name: content for name in (*_SHA256, "package.json") if (content := read(name)) is not None}
    for name in _SHA256:
        if name not in found:
            raise KeyError(name)
    return found


def _downloaded() -> dict[str, bytes]:
    """The files from the npm registry, or the mirror that ``NPM_CONFIG_REGISTRY`` names.

    Raises:
        RunError: it cannot be reached, or sends something else than was published.
    """
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or os.environ.get("npm_config_registry") or _REGISTRY  # noqa: SIM112
    address = f"{registry.rstrip('/')}/{_PACKAGE}/-/{_PACKAGE}-{VERSION}.tgz"
    remedy = (
        f"Where there is a network, run `npm pack {_PACKAGE}@{VERSION}`, copy the file here, and give it with "
        f"{FLAG} FILE.tgz; NPM_CONFIG_REGISTRY names a mirror"
    )
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:
            content = answer.read()
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise RunError(f"{address} cannot be downloaded ({reason}), and the page needs it. {remedy}") from error
    if hashlib.sha512(content).hexdigest() != _TARBALL_SHA512:
        raise RunError(f"{address} is not the file that was published (its checksum differs). {remedy}")
    return {name: content for name, content in _from_tarball(content).items() if name in _SHA256}
