"""The site: it builds without a warning, holds every page, and fetches nothing when it is viewed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import nat2
from tests.reports.browser import CHROMIUM, Browser

ROOT = Path(__file__).parents[1]
MARKDOWN = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LINKED = ("stylesheet", "icon", "preconnect", "preload", "modulepreload", "dns-prefetch", "prefetch")


def pages_of(navigation: Any) -> list[str]:
    if isinstance(navigation, str):
        return [navigation]
    parts = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for part in parts for page in pages_of(part)]


class Resources(HTMLParser):
    """What a page fetches when it is opened; links that a reader follows are none of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in FETCHED:
            self.found.append(given.get(FETCHED[tag]) or "")
        if tag == "link" and set((given.get("rel") or "").split()) & set(LINKED):
            self.found.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("MkDocs is not installed; pip install -e '.[docs]' -c constraints.txt")
    out = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


def navigation() -> list[str]:
    # The file may hold tags of MkDocs's own, of which ours needs none.
    return pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_front_pages_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(navigation()) == MARKDOWN


def test_the_site_builds(site: Path) -> None:
    for page in MARKDOWN:
        assert (site / page).with_suffix(".html").stat().st_size > 1000


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for resource in Resources(page.read_text(encoding="utf-8")).found:
            assert not re.match(r"(https?:)?//", resource), f"{page.name} fetches {resource}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), f"{style.name} fetches something"


def test_search_works_when_the_site_is_opened_from_disk(site: Path, tmp_path: Path) -> None:
    assert (site / "search" / "search_index.js").stat().st_size > 10_000
    if CHROMIUM is None:
        pytest.skip("needs the program chromium (Debian: apt install chromium)")
    with Browser(tmp_path / "chromium") as browser:
        browser.call("Page.navigate", url=(site / "index.html").as_uri())
        _until(browser, "document.readyState === 'complete' && !!document.querySelector('.md-search__input')")
        browser.run(
            "document.querySelector('label[for=__search]').click(); "
            "{ const it = document.querySelector('.md-search__input'); it.focus(); it.value = 'hypervolume';"
            "it.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})) }"
        )
        _until(browser, "document.querySelector('.md-search-result__meta').textContent.includes('matching')")
        assert all(request.startswith(("file:", "data:", "blob:", "about:")) for request in browser.requests)


def _until(browser: Browser, condition: str) -> None:
    for _ in range(600):
        if browser.run(condition):
            return
        time.sleep(0.1)
    raise TimeoutError(condition)


def test_the_navigation_has_few_sections() -> None:
    assert len(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]) <= 5


def test_the_picture_of_the_report_is_compact() -> None:
    with Image.open(ROOT / "docs" / "report.png") as picture:
        assert picture.width >= 800
    assert (ROOT / "docs" / "report.png").stat().st_size < 150_000


def test_external_resources_are_recognised() -> None:
    page = '<link rel="stylesheet" href="https://a/b.css"><script src="//c/d.js"></script><a href="https://e">f</a>'
    assert Resources(page).found == ["https://a/b.css", "//c/d.js"]


def test_the_reference_has_every_public_name(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in set(nat2.__all__) - {"__version__"}:
        thing = getattr(nat2, name)
        assert f'id="{thing.__module__}.{thing.__qualname__}"' in page, name
