"""The site of the docs: it is built without a warning, and its links lead somewhere."""

import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from lab import documentation
from lab.settings import Settings
from pushlab.feed import Feed
from tests.conftest import ROOT
from tests.test_http import app_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as by `make docs`."""
    target = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "-q", "-b", "html", "-d", f"{target}/.trees"]
    command = [sys.executable, "-m", "sphinx", *options, "docs", str(target)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert build.stderr == ""
    assert build.returncode == 0
    assert not [path for path in target.rglob("*.html") if str(ROOT) in path.read_text()]
    return target


class Page(HTMLParser):
    """The links and the ids of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and tag != "base":
                self.links.append(str(value))
            elif name in ("id", "name"):
                self.ids.add(str(value))


def test_every_link_leads_somewhere(site: Path) -> None:
    """To a page, with its anchor, or to a file."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 40
    broken = []
    for path, page in pages.items():
        for link in page.links:
            address, anchor = urldefrag(unquote(link).partition("?")[0])
            if "://" in address or address.startswith(("data:", "mailto:")):
                continue
            target = (path.parent / address).resolve() if address else path
            exists = target.is_file()
            if not exists or (target in pages and anchor not in pages[target].ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_the_lab_shows_the_site_or_the_sources(
    site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app = app_of(Feed(), Settings())
    get = partial(app.test_client().get, buffered=True)
    monkeypatch.setattr(documentation, "BUILT", site)
    assert b'<a href="/docs/">The docs</a>' in get("/").data
    assert get("/docs/").headers["Location"] == "/docs/index.rst"
    built = get("/docs/explanation/distance.rst", follow_redirects=True)
    assert (built.mimetype, b"<h1>" in built.data) == ("text/html", True)
    assert get("/docs/_static/styles/furo.css").status_code == 200
    assert "frame-ancestors 'none'" in built.headers["Content-Security-Policy"]

    monkeypatch.setattr(documentation, "BUILT", tmp_path)
    written = get("/docs/", follow_redirects=True)
    assert (written.mimetype, written.data) == (
        "text/plain",
        (ROOT / "docs" / "index.rst").read_bytes(),
    )
    for nowhere in ("nope.rst", "nope.html", "../serve.py", "%2e%2e/serve.py"):
        assert get(f"/docs/{nowhere}").status_code == 404


def test_words_are_spelt_right() -> None:
    """In docs, programs and comments."""
    files = ["README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst", "SECURITY.rst", "docs", "pushlab",
             "lab", "bench", "examples", "servers", "static", "templates"]  # fmt: skip
    options = ["--skip", "*.json,*.svg,*.png,__pycache__", "--ignore-words-list", "te,followings"]
    command = [sys.executable, "-m", "codespell_lib", *options, *files]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
