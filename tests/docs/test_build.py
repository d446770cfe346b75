"""The site is built without a warning; each link in it leads somewhere, and nothing is asked of other hosts.

Invariant: links to other sites are not followed: that needs the internet, and `sphinx-build -b linkcheck` does it.
"""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import gtasker
from tests.docs._pages import DOCS, ROOT, pages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("link", "href"),
    ("object", "data"),
}
"""What a browser fetches without being asked."""
_NOT_FETCHED = {"canonical", "next", "prev", "index", "search", "author"}
"""Kinds of `link` that only tell."""


class Page(HTMLParser):
    """One page that was built: what it has, links to and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        for name, value in given.items():
            if (tag, name) in _LOADED and not set(given.get("rel", "").split()) & _NOT_FETCHED:
                self.loaded.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages; what the build says is an error."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-E", "-d", f"{target}/.cache"]
    done = subprocess.run(
        [*command, str(DOCS), str(target)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, "")
    return target


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Page]:
    """The pages that were built."""
    return {path: Page(path) for path in site.rglob("*.html")}


def test_each_page_is_built_and_reached_from_the_first(site: Path, built: dict[Path, Page]) -> None:
    written = {page.relative_to(DOCS).with_suffix(".html") for page in pages() if page.is_relative_to(DOCS)}
    reached: set[Path] = set()
    to_see = [site / "index.html"]
    while to_see:
        path = to_see.pop()
        if path not in reached and path in built:
            reached.add(path)
            to_see += [(path.parent / unquote(urlsplit(link).path)).resolve() for link in built[path].links if link]

    assert written
    assert {path for path in written if site / path not in reached} == set()


def test_each_link_within_the_site_leads_somewhere(built: dict[Path, Page]) -> None:
    def is_dead(page: Page, link: str) -> bool:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            return False
        target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
        has_anchor = not parts.fragment or target not in built or unquote(parts.fragment) in built[target].anchors
        return not (target.exists() and has_anchor)

    links = [(page, link) for page in built.values() for link in (*page.links, *page.loaded)]

    assert len(links) > len(built)
    assert [(page.path.name, link) for page, link in links if is_dead(page, link)] == []


def test_a_reader_asks_no_other_host_for_anything(site: Path, built: dict[Path, Page]) -> None:
    outside = {link for page in built.values() for link in page.loaded if urlsplit(link).netloc}
    styles = {
        path.name for path in site.rglob("*.css") if "url(http" in path.read_text() or "@import" in path.read_text()
    }

    assert outside == set()
    assert styles == set()


def test_the_settings_are_told_as_the_code_has_them(site: Path, built: dict[Path, Page]) -> None:
    page = site / "reference" / "settings.html"

    assert set(gtasker.Config.__dataclass_fields__) <= built[page].anchors
    text = page.read_text()
    assert "at least <code" in text  # max_worker_count: a bound that follows from another field
    for name, value in (("acquire_timeout", 30.0), ("max_creating", 4), ("max_lifetime", 3600.0)):
        [told] = [part for part in text.split('<dl class="setting">') if f'<dt id="{name}">' in part]
        assert f'<span class="pre">{value!r}</span>' in told, name
        assert getattr(gtasker.Config, name) == value
