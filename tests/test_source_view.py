"""The code of each transport, as a page and as a dialog: the files that run, line by line."""

import importlib
import inspect
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from selenium.webdriver import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from lab import source_view
from lab.settings import Settings
from pushlab.feed import Feed
from pushlab.transports import TRANSPORTS
from tests.browsing import Browser, browsing, violations
from tests.conftest import ROOT, Server, eventually, until_same
from tests.test_http import app_of

FILES = {
    transport: (
        f"pushlab/transports/{transport}.py",
        f"pushlab/static/transports/{transport}.js",
    )
    for transport in TRANSPORTS
}


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return app_of(Feed(), Settings(source="load")).test_client()


class Page(HTMLParser):
    """The tags of a page, the text of each `<pre>` by its label, of each element by its id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.code: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if id_ := attributes.get("id"):
            assert id_ not in self.texts, f"two elements with the id {id_}"
            self.texts[id_] = ""
        if tag not in ("meta", "link", "br"):
            self._open.append((tag, attributes))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, "the HTML does not nest"

    def handle_data(self, data: str) -> None:
        for tag, attributes in self._open:
            if tag == "pre":
                label = str(attributes["aria-label"])
                self.code[label] = self.code.get(label, "") + data
            if id_ := attributes.get("id"):
                self.texts[id_] += data


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def page(client: FlaskClient, transport: str) -> Page:
    response = client.get(f"/code/{transport}")
    assert (response.status_code, response.mimetype) == (200, "text/html")
    return Page(response.text)


def test_it_shows_the_files_that_run(client: FlaskClient, page: Page, transport: str) -> None:
    """The module that the app has imported, and what browsers receive at its public URL."""
    module = importlib.import_module(f"pushlab.transports.{transport}")
    served = client.get(f"/static/transports/{transport}.js", buffered=True)
    code = (inspect.getsource(module), served.text)
    ideas = [f"{file}: the idea" for file in FILES[transport]]
    assert list(page.code) == [*ideas, *FILES[transport]]
    assert [page.code[file] for file in FILES[transport]] == list(code)


#: By transport, what the idea of each half says: the reason for which one reads it.
IDEAS = {
    "poll": ("304 Not Modified", "sleep(next"),
    "longpoll": ("Wait(positions", "while (!signal.aborted) await poll"),
    "sse": ("Stream(", "new EventSource("),
    "websocket": ("hub.follow(", "new WebSocket("),
}


def test_first_comes_the_idea(page: Page, transport: str) -> None:
    """A dozen lines of each file, as they are in it."""
    for file, says in zip(FILES[transport], IDEAS[transport], strict=True):
        idea, whole = page.code[f"{file}: the idea"], (ROOT / file).read_text()
        assert says in idea
        assert 2 <= len(idea.splitlines()) <= 16
        lines = [line.strip() for line in whole.splitlines()]
        first = lines.index(idea.splitlines()[0])
        assert [line.strip() for line in idea.splitlines()] == lines[
            first : first + len(idea.splitlines())
        ]
        anchor = "server" if file.endswith(".py") else "browser"
        links = [attributes.get("href") for tag, attributes in page.tags if tag == "a"]
        assert f"/code/{transport}#{anchor}-{first + 1}" in links


def test_every_line_is_a_link_target(page: Page, transport: str) -> None:
    for anchor, file in zip(("server", "browser"), FILES[transport], strict=True):
        for number, line in enumerate((ROOT / file).read_text().splitlines(True), 1):
            assert page.texts[f"{anchor}-{number}"] == line


@pytest.mark.parametrize(
    "name",
    ["nope", "../app", "%2e%2e/app", "/../app", "WebSocket", "websocket.py", "websocket/",
     "__init__", "", "%00", "%C3%A9%FF"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_unknown_transport_is_404(client: FlaskClient, name: str, method: str) -> None:
    response = client.open(f"/code/{name}", method=method, follow_redirects=True)
    assert (response.status_code, response.mimetype) == (404, "application/json")
    if method == "GET":
        assert re.fullmatch(
            r"there is no transport '.*'; there are: poll, longpoll, sse, websocket",
            response.get_json()["error"],
        )
    assert client.get("/code").status_code == 404


def test_head_and_conditional_requests(client: FlaskClient, transport: str) -> None:
    get, head = (client.open(f"/code/{transport}", method=method) for method in ("GET", "HEAD"))
    assert (head.status_code, head.data) == (200, b"")
    first, second = (dict(response.headers) for response in (get, head))
    for headers in (first, second):
        del headers["Date"]  # a second may have passed
    assert first == second
    assert get.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": get.headers["ETag"]}
    assert client.get(f"/code/{transport}", headers=known).status_code == 304
    other = next(name for name in TRANSPORTS if name != transport)
    assert client.get(f"/code/{other}", headers=known).status_code == 200


def test_a_changed_file_is_read_again(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in FILES["websocket"]:
        copy = tmp_path / file
        copy.parent.mkdir(parents=True)
        copy.write_text((ROOT / file).read_text())
    monkeypatch.setattr(source_view, "LIBRARY", tmp_path / "pushlab")
    before = client.get("/code/websocket")
    changed = "\n\ndef another() -> None: ...\n\n\n"
    (tmp_path / FILES["websocket"][0]).write_text(changed)
    after = client.get("/code/websocket", headers={"If-None-Match": before.headers["ETag"]})
    assert Page(after.text).code[FILES["websocket"][0]] == changed


def test_the_policy_is_strict(client: FlaskClient, page: Page) -> None:
    policy = client.get("/code/websocket").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, attributes in page.tags:
        assert tag not in ("style", "script")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href"):
            assert not re.match(r"\w+:|//", attributes.get(name) or ""), "from another server"


def test_no_id_is_one_of_the_main_page(client: FlaskClient, page: Page) -> None:
    main = re.findall(r'\bid="([^"]+)"', client.get("/").text)
    assert main
    assert not page.texts.keys() & set(main)


# In the browser.


@pytest.fixture
def visited(browser: Browser, page_server: Server) -> Browser:
    """The main page, without a dialog, with the focus on a button."""
    browser.server = page_server
    browser.open(page_server.url)
    # Without scrolling to it: what earlier tests published may be long.
    focus = "document.querySelector('[data-action=stop]').focus({ preventScroll: true })"
    browser.execute_script(focus)
    return browser


def show_code(browser: Browser, transport: str = "websocket", *, title: str = "WebSocket") -> None:
    problem = browser.execute_async_script(
        "const [transport, title, done] = arguments;"
        "import('/static/code.js').then((code) => code.showCode(transport, title))"
        ".then(() => done(null), (error) => done(String(error)))",
        transport,
        title,
    )
    assert problem is None
    assert is_open(browser)


def is_open(browser: Browser) -> bool:
    return bool(browser.execute_script("return document.querySelector('dialog.code').open"))


def until_closed(browser: Browser, opener: str = "[data-action=stop]") -> None:
    eventually(lambda: not is_open(browser))
    focused = "return document.activeElement === document.querySelector(arguments[0])"
    assert browser.execute_script(focused, opener), "the focus does not return to where it was"


def part(browser: Browser, selector: str) -> Any:
    return browser.find(f"dialog.code {selector}")


Shown = tuple[str, list[str]]


def shown_and(browser: Browser, expected: Shown) -> tuple[Shown, Shown]:
    """The title and code of the open dialog, and what they should be."""
    code = browser.execute_script(
        "return [...document.querySelectorAll('dialog[open] pre')].map((pre) => pre.textContent)"
    )
    return (part(browser, "h2").text if is_open(browser) else "", code), expected


def test_a_lanes_button_opens_the_dialog_with_its_code(visited: Browser) -> None:
    for transport, shown in TRANSPORTS.items():
        button = f'[data-transport="{transport}"] [data-action="code"]'
        visited.find(button).click()
        page = Page(visited.server.http.get(f"/code/{transport}").body.decode())
        code = [page.code[f"{file}: the idea"] for file in FILES[transport]]
        until_same(partial(shown_and, visited, (f"{shown.title}: the code", code)))
        assert part(visited, "header a").get_attribute("href").endswith(f"/code/{transport}")
        assert visited.find("dialog.code").accessible_name == f"{shown.title}: the code"
        hue = "return getComputedStyle(document.querySelector(arguments[0])).borderTopColor"
        lane, card = f'[data-transport="{transport}"]', "dialog.code .card"
        assert visited.execute_script(hue, lane) == visited.execute_script(hue, card)
        ActionChains(visited).send_keys(Keys.ESCAPE).perform()
        until_closed(visited, button)
    assert visited.complaints() == []


def test_the_dialog_is_closed_by_escape_by_its_button_and_by_its_backdrop(visited: Browser) -> None:
    show_code(visited)
    inside = "return document.querySelector('dialog.code').contains(document.activeElement)"
    assert visited.execute_script(inside)
    ActionChains(visited).send_keys(Keys.ESCAPE).perform()
    until_closed(visited)

    show_code(visited, "longpoll", title="Long polling")
    assert "longpoll.py" in part(visited, "pre").get_attribute("aria-label")
    part(visited, "button").click()
    until_closed(visited)

    show_code(visited)
    selection, backdrop = ActionChains(visited), ActionChains(visited)
    selection.click_and_hold(part(visited, "pre code > span")).move_by_offset(0, 5)
    selection.w3c_actions.pointer_action.move_to_location(2, 2)
    selection.release().perform()
    assert is_open(visited), "closed by selecting text beyond its edge"
    backdrop.w3c_actions.pointer_action.move_to_location(2, 2)
    backdrop.click().perform()
    until_closed(visited)


def test_the_page_behind_the_dialog_does_not_scroll(visited: Browser) -> None:
    visited.look(height=300)
    show_code(visited)
    scrolled = "return [document.querySelector('dialog.code > div').scrollTop > 0, scrollY]"

    def only_the_dialog_scrolls() -> bool:
        wheel = ActionChains(visited)
        wheel.scroll_from_origin(ScrollOrigin.from_viewport(3, 3), 0, 200)
        wheel.scroll_from_origin(ScrollOrigin.from_viewport(700, 200), 0, 5000)
        wheel.scroll_from_origin(ScrollOrigin.from_viewport(700, 200), 0, 5000)
        wheel.send_keys(Keys.END).perform()
        return bool(visited.execute_script(scrolled) == [True, 0])

    eventually(only_the_dialog_scrolls)  # a page that is still busy loses what the wheel does


def test_a_failure_is_shown_in_words(visited: Browser) -> None:
    show_code(visited, "nope")
    alert = part(visited, "[role=alert]").text
    assert alert == "The code cannot be shown: the server responded with 404."
    part(visited, "button").click()
    visited.execute_cdp_cmd("Network.enable", {})
    visited.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/code/*"]})
    try:
        show_code(visited)
    finally:
        visited.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    alert = part(visited, "[role=alert]").text
    assert alert == "The code cannot be shown: the server cannot be reached."


@pytest.mark.parametrize(
    ("width", "scheme"),  # contrast does not depend on the width, nor layout on the colours
    [(390, "dark"), (1000, "light"), (1280, "dark")],
)
def test_it_fits_and_can_be_read(
    visited: Browser, page_server: Server, axe: str, width: int, scheme: str
) -> None:
    visited.look(width=width, scheme=scheme)
    show_code(visited)
    visited.picture(f"dialog, {scheme}, {width} px")
    size = visited.find("dialog.code").size
    assert (size["width"] == width) == (width == 390), "all of a phone's screen, and only there"
    check_look(visited, axe, width)

    visited.get(f"{page_server.url}/code/websocket#browser-9")
    visited.picture(f"code, {scheme}, {width} px")
    check_look(visited, axe, width)


def check_look(browser: Browser, axe: str, width: int) -> None:
    assert browser.complaints() == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    cut = "return [...document.querySelectorAll('pre')].some((e) => e.scrollWidth > e.clientWidth)"
    assert width < 1280 or not browser.execute_script(cut), "a line is cut"
    colours = "return [...document.querySelectorAll('pre *')].map((e) => getComputedStyle(e).color)"
    # Comments, strings, keywords, names of functions, and everything else.
    assert len(set(browser.execute_script(colours))) >= 5
    assert violations(browser, axe) == []


def test_copying_the_code_copies_no_line_numbers(chromium: Browser, page_server: Server) -> None:
    permissions = {"permissions": ["clipboardReadWrite"], "origin": page_server.url}
    chromium.execute_cdp_cmd("Browser.grantPermissions", permissions)
    for transport, files in FILES.items():
        chromium.get(f"{page_server.url}/code/{transport}")
        for file in files:
            code = chromium.find(f"[aria-label='{file}']")
            chromium.execute_script("getSelection().selectAllChildren(arguments[0])", code)
            keys = ActionChains(chromium).key_down(Keys.CONTROL).send_keys("c")
            keys.key_up(Keys.CONTROL).perform()
            copied = chromium.execute_async_script(
                "navigator.clipboard.readText().then(arguments[0], (e) => arguments[0](String(e)))"
            )
            # No browser copies the end of the last line.
            assert copied == (ROOT / file).read_text().rstrip("\n"), file


def test_a_long_line_scrolls_by_keyboard(browser: Browser, page_server: Server) -> None:
    browser.look(width=390, height=844)
    browser.get(f"{page_server.url}/code/websocket")
    code = browser.find("pre")
    browser.execute_script("arguments[0].focus()", code)
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT * 3).perform()
    eventually(lambda: browser.execute_script("return arguments[0].scrollLeft", code) > 0)


def test_the_page_needs_no_javascript(page_server: Server, tmp_path: Path) -> None:
    with browsing(tmp_path, javascript=False) as browser:
        browser.get(f"{page_server.url}/code/poll#browser-2")
        second = (ROOT / FILES["poll"][1]).read_text().splitlines()[1]
        assert browser.find(":target").text.strip() == second
        browser.find_element(By.PARTIAL_LINK_TEXT, "Pushlab").click()
        assert browser.current_url == f"{page_server.url}/"
