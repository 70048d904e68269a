"""The code of each lane, as a page and as a dialog: exactly the files, every function linked."""

import re
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from typing import Any

import pytest
from flask.testing import FlaskClient
from selenium.webdriver import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from lab import source_view as listing
from lab.settings import Settings
from pushlab.feed import Feed
from pushlab.transports import TRANSPORTS
from tests.browsing import Browser, browsing, until_same
from tests.conftest import ROOT, Server, eventually, starting
from tests.test_http import app_of

FILES = {
    (transport, prefix): (ROOT / file)
    for transport in TRANSPORTS
    for prefix, file in (
        ("server", f"pushlab/transports/{transport}.py"),
        ("browser", f"pushlab/static/transports/{transport}.js"),
    )
}


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return app_of(Feed(), Settings(source="load")).test_client()


class Page(HTMLParser):
    """The tags of a page, the text of its listings by label, and of its elements by id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.listings: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.links: dict[str, str] = {}
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
                self.listings[label] = self.listings.get(label, "") + data
            elif tag == "a":
                self.links[str(attributes["href"])] = data
            if id_ := attributes.get("id"):
                self.texts[id_] += data


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def page(client: FlaskClient, transport: str) -> Page:
    answer = client.get(f"/code/{transport}")
    assert answer.status_code == 200
    assert answer.mimetype == "text/html"
    return Page(answer.text)


def test_both_halves_are_shown_exactly(page: Page, transport: str) -> None:
    shown = list(page.listings.items())
    expected = [FILES[transport, "server"], FILES[transport, "browser"]]
    assert shown == [(str(file.relative_to(ROOT)), file.read_text()) for file in expected]


@pytest.mark.parametrize("prefix", ["server", "browser"])
def test_every_line_is_a_target(page: Page, transport: str, prefix: str) -> None:
    for number, line in enumerate(FILES[transport, prefix].read_text().splitlines(True), 1):
        assert page.texts[f"{prefix}-{number}"] == line


#: What begins a function, by line. The listing finds them otherwise: by syntax, and by tokens.
BEGINNING = {
    "server": re.compile(r"\s*(?:async )?(?:def|class) (\w+)"),
    "browser": re.compile(
        r"\s*(?:export )?(?:default )?(?:class (\w+)|(?:async )?function (\w+)"
        r"|(?:const|let) (\w+) = (?:async )?(?:\([^()]*\)|\w+) =>"
        r"|(?!if|for|while|switch|catch)(?:(?:static|async|get|set) )*#?(\w+)\([^()]*\) \{$)"
    ),
}


@pytest.mark.parametrize("prefix", ["server", "browser"])
def test_every_function_is_a_target_and_linked(page: Page, transport: str, prefix: str) -> None:
    links = {href: text for href, text in page.links.items() if href.startswith(f"#{prefix}-")}
    for number, line in enumerate(FILES[transport, prefix].read_text().splitlines(True), 1):
        if found := BEGINNING[prefix].match(line):
            name = next(filter(None, found.groups()))
            text = links.pop(f"#{prefix}-{name}")
            assert re.fullmatch(rf"#?{name} · line {number}", text)
            assert page.texts[f"{prefix}-{name}"].startswith(line)
    assert links == {}, "links to what is no function"


def test_the_way_in_is_the_first_link_of_each_half(page: Page) -> None:
    assert any(href == "#server-update" for href in page.links)
    assert any(text.startswith("connect · line ") for text in page.links.values())
    assert "/" in page.links, "no way back"


PYTHON = """\
import x
class A:
    async def b(self):
        def c():
            return 1
        return c
    def c(self): pass
"""

JAVASCRIPT = """\
/** class No { no() { */
import { x } from "x"; // function no() {
export class A extends B {
  #field = no("{");
  static async #one(a = { b: `(${f({ no: 1 })}{`, c: /[({]/ }) {
    if (x) { no(1_000); } else if (y) { for (const z of no()) { } }
    for await (const z of y) { }
  }

  get two() { return () => {}; }
  *three() {
    const four = async (a, { b }) => {
      try { no(); } catch (no) { while (no()) { } }
    }, no = 5;
    const five = a => no(
      function () {},
    );
  }
  constructor() { super(() => { }); }
}
async function seven(then) { switch (then) { } }
export default function* one() { }
"""


def test_functions_are_found_by_syntax_in_python() -> None:
    expected = [("A", 2, 7), ("b", 3, 6), ("c", 4, 5), ("c", 7, 7)]
    assert listing.python_functions(PYTHON) == expected


def test_functions_are_found_by_tokens_in_javascript() -> None:
    lexer = listing.JavaScriptLexer(stripnl=False, ensurenl=False)
    assert listing.javascript_functions(list(lexer.get_tokens(JAVASCRIPT))) == [
        ("A", 3, 20), ("#one", 5, 8), ("two", 10, 10), ("three", 11, 18), ("four", 12, 14),
        ("five", 15, 17), ("constructor", 19, 19), ("seven", 21, 21), ("one", 22, 22),
    ]  # fmt: skip


@pytest.mark.parametrize(("prefix", "text"), [("server", PYTHON), ("browser", JAVASCRIPT)])
def test_any_code_is_shown_exactly(prefix: str, text: str) -> None:
    for variant in (text, text.rstrip("\n") + "\n\n\n", "\n\n" + text):
        functions, html = listing.listing(variant, prefix)
        page = Page(str(html))  # which must nest, and have no id twice
        lines = (page.texts[f"{prefix}-{n + 1}"] for n in range(variant.count("\n")))
        assert "".join(lines) == variant
        assert {function.id for function in functions} <= page.texts.keys()


@pytest.mark.parametrize(
    "name",
    ["nope", "../app", "%2e%2e/app", "/../app", "WebSocket", "websocket.py", "websocket/",
     "__init__", "", "%00", "%C3%A9%FF"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_unknown_transport_is_refused(client: FlaskClient, name: str, method: str) -> None:
    answer = client.open(f"/code/{name}", method=method, follow_redirects=True)
    assert answer.status_code == 404
    assert answer.mimetype == "application/json"
    if method == "GET":
        assert re.fullmatch(
            r"there is no transport '.*'; there are: poll, longpoll, sse, websocket",
            answer.get_json()["error"],
        )


def test_no_name_at_all_is_refused(client: FlaskClient) -> None:
    answer = client.get("/code")
    assert (answer.status_code, answer.mimetype) == (404, "application/json")


def test_head_says_what_get_says(client: FlaskClient, transport: str) -> None:
    get, head = (client.open(f"/code/{transport}", method=method) for method in ("GET", "HEAD"))
    assert head.status_code == 200
    assert dict(head.headers) == dict(get.headers)
    assert head.data == b""


def test_it_is_not_sent_again_unless_it_changed(client: FlaskClient, transport: str) -> None:
    answer = client.get(f"/code/{transport}")
    assert answer.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": answer.headers["ETag"]}
    assert client.get(f"/code/{transport}", headers=known).status_code == 304
    other = next(name for name in TRANSPORTS if name != transport)
    assert client.get(f"/code/{other}", headers=known).status_code == 200


def test_the_file_is_read_anew(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for file in (FILES["websocket", "server"], FILES["websocket", "browser"]):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True)
        copy.write_text(file.read_text())
    monkeypatch.setattr(listing, "ROOT", tmp_path)
    before = client.get("/code/websocket")
    (tmp_path / "pushlab/transports/websocket.py").write_text("def another() -> None: ...\n")
    after = client.get("/code/websocket", headers={"If-None-Match": before.headers["ETag"]})
    assert Page(after.text).links["#server-another"] == "another · line 1"


def test_the_page_keeps_to_a_strict_policy(client: FlaskClient, page: Page) -> None:
    policy = client.get("/code/websocket").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, attributes in page.tags:
        assert tag not in ("style", "script")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href"):
            assert not re.match(r"\w+:|//", attributes.get(name) or ""), "nothing from elsewhere"


def test_no_id_is_one_of_the_main_page(client: FlaskClient, page: Page) -> None:
    main = re.findall(r'\bid="([^"]+)"', client.get("/").text)
    assert main
    assert not page.texts.keys() & set(main)


def test_every_colour_is_used_and_defined(client: FlaskClient) -> None:
    used = set()
    for name in TRANSPORTS:
        used |= set(re.findall(r'<span class="(\w+)"', client.get(f"/code/{name}").text))
    style = (ROOT / "static/code.css").read_text()
    assert used == {*listing.COLOURS, "numbered", "function"}
    for colour in used:
        assert re.search(rf"\bpre \.{colour}\b", style), colour


# In the browser.


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http")


@pytest.fixture
def visited(browser: Browser, server: Server) -> Browser:
    """The main page, in which no dialog is open yet, and with a button in focus."""
    browser.open(server.url)
    browser.execute_script("document.querySelector('[data-action=stop]').focus()")
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
    return browser.find_element(By.CSS_SELECTOR, f"dialog.code {selector}")


Shown = tuple[str, list[str]]


def shown_and(browser: Browser, expected: Shown) -> tuple[Shown, Shown]:
    """The title and the listings of the dialog that is open, next to those that it should have."""
    code = browser.execute_script(
        "return [...document.querySelectorAll('dialog[open] pre')].map((pre) => pre.textContent)"
    )
    return (part(browser, "h2").text if is_open(browser) else "", code), expected


def test_a_lanes_button_opens_the_dialog_with_what_its_page_shows(visited: Browser) -> None:
    for transport, shown in TRANSPORTS.items():
        button = f'[data-transport="{transport}"] [data-action="code"]'
        visited.find_element(By.CSS_SELECTOR, button).click()
        code = [FILES[transport, half].read_text() for half in ("server", "browser")]
        until_same(partial(shown_and, visited, (f"{shown.title}: the code", code)))
        assert part(visited, "header a").get_attribute("href").endswith(f"/code/{transport}")
        dialog = visited.find_element(By.CSS_SELECTOR, "dialog.code")
        assert dialog.accessible_name == f"{shown.title}: the code"
        hue = "return getComputedStyle(document.querySelector(arguments[0])).borderTopColor"
        lane, card = f'[data-transport="{transport}"]', "dialog.code .card"
        assert visited.execute_script(hue, lane) == visited.execute_script(hue, card)
        ActionChains(visited).send_keys(Keys.ESCAPE).perform()
        until_closed(visited, button)
    assert visited.complaints() == []


def test_escape_closes_the_dialog(visited: Browser) -> None:
    show_code(visited)
    inside = "return document.querySelector('dialog.code').contains(document.activeElement)"
    assert visited.execute_script(inside)
    ActionChains(visited).send_keys(Keys.ESCAPE).perform()
    until_closed(visited)
    show_code(visited, "longpoll", title="Long polling")
    assert "longpoll.py" in part(visited, "pre").get_attribute("aria-label")


def test_its_button_closes_the_dialog(visited: Browser) -> None:
    show_code(visited)
    part(visited, "button").click()
    until_closed(visited)


def test_its_backdrop_closes_the_dialog_but_no_selection_does(visited: Browser) -> None:
    show_code(visited)
    code, outside = part(visited, "pre .numbered"), ActionChains(visited)
    outside.click_and_hold(code).move_by_offset(0, 5)
    outside.w3c_actions.pointer_action.move_to_location(2, 2)
    outside.release().perform()
    assert is_open(visited)
    backdrop = ActionChains(visited)
    backdrop.w3c_actions.pointer_action.move_to_location(2, 2)
    backdrop.click().perform()
    until_closed(visited)


def test_the_dialogs_links_stay_in_the_dialog(visited: Browser) -> None:
    visited.look(height=400)
    show_code(visited)
    where = "return [location.href, history.length, scrollY]"
    before = visited.execute_script(where)
    part(visited, "a[href='#browser-connect']").click()
    target = part(visited, "#browser-connect")
    top, bottom = part(visited, "[role=region]").rect["y"], 400
    assert top <= target.rect["y"] <= bottom
    assert visited.execute_script(where) == before
    assert is_open(visited)


def test_the_page_behind_the_dialog_does_not_scroll(visited: Browser) -> None:
    visited.look(height=300)
    show_code(visited)
    wheel = ActionChains(visited)
    wheel.scroll_from_origin(ScrollOrigin.from_viewport(3, 3), 0, 200)
    wheel.scroll_from_origin(ScrollOrigin.from_viewport(700, 200), 0, 5000)
    wheel.scroll_from_origin(ScrollOrigin.from_viewport(700, 200), 0, 5000)
    wheel.send_keys(Keys.END).perform()
    scrolled = "return [document.querySelector('dialog.code > div').scrollTop > 0, scrollY]"
    eventually(lambda: visited.execute_script(scrolled) == [True, 0])


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
    ("width", "scheme"),  # what is legible does not depend on the width, what fits not on colours
    [(390, "dark"), (1000, "light"), (1400, "dark")],
)
def test_it_fits_and_can_be_read(visited: Browser, server: Server, width: int, scheme: str) -> None:
    visited.look(width=width, scheme=scheme)
    show_code(visited)
    visited.picture(f"dialog, {scheme}, {width} px")
    size = visited.find_element(By.CSS_SELECTOR, "dialog.code").size
    assert (size["width"] == width) == (width == 390), "all of a phone's screen, and only there"
    assert legible(visited) == []
    assert visited.execute_script(WIDTH) <= width
    assert beside(visited) == (width == 1400)

    visited.get(f"{server.url}/code/websocket#browser-connect")
    visited.picture(f"code, {scheme}, {width} px")
    assert visited.execute_script(WIDTH) <= width
    assert legible(visited) == []
    assert beside(visited) == (width == 1400)
    assert visited.complaints() == []


WIDTH = "return document.documentElement.scrollWidth"


def beside(browser: Browser) -> bool:
    """Whether the two halves stand side by side."""
    one, two = browser.find_elements(By.CSS_SELECTOR, "pre")
    return bool(one.rect["x"] + one.rect["width"] <= two.rect["x"])


def legible(browser: Browser) -> list[str]:
    """Return the texts that have less than the contrast of WCAG's AA, also in a target."""
    pairs: dict[str, list[list[float]]] = browser.execute_script(
        """
        const often = { willReadFrequently: true };
        const context = document.createElement("canvas").getContext("2d", often);
        const rgba = (colour) => {
          context.clearRect(0, 0, 1, 1);
          context.fillStyle = colour;
          context.fillRect(0, 0, 1, 1);
          return [...context.getImageData(0, 0, 1, 1).data];
        };
        const ground = (element) => {
          const colour = rgba(getComputedStyle(element).backgroundColor);
          return colour[3] === 255 ? colour : ground(element.parentElement);
        };
        const pairs = {};
        const look = (target) => {
          const place = document.querySelector("dialog[open]") ?? document.body;
          place.querySelectorAll(".function").forEach((f) => f.classList.toggle("target", target));
          for (const element of place.querySelectorAll("*")) {
            const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
            if (![...element.childNodes].some(isText) || !element.checkVisibility()) continue;
            for (const part of [undefined, "::before"]) {
              const colour = rgba(getComputedStyle(element, part).color);
              pairs[`${element.textContent} ${part} ${target}`] = [colour, ground(element)];
            }
          }
        };
        look(true);
        look(false);
        return pairs;
        """
    )
    assert len(pairs) > 50
    contrasts = {
        text: sorted(luminance(colour[:3]) + 0.05 for colour in pair)
        for text, pair in pairs.items()
    }
    return [text for text, (dark, bright) in contrasts.items() if bright / dark < 4.5]


def luminance(colour: list[float]) -> float:
    """WCAG's relative luminance of an sRGB colour."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_who_copies_the_code_gets_the_code(chromium: Browser, server: Server) -> None:
    permissions = {"permissions": ["clipboardReadWrite"], "origin": server.url}
    chromium.execute_cdp_cmd("Browser.grantPermissions", permissions)
    for (transport, prefix), file in FILES.items():
        chromium.get(f"{server.url}/code/{transport}")
        code = chromium.find_element(By.CSS_SELECTOR, f"[aria-label='{file.relative_to(ROOT)}']")
        chromium.execute_script("getSelection().selectAllChildren(arguments[0])", code)
        ActionChains(chromium).key_down(Keys.CONTROL).send_keys("c").key_up(Keys.CONTROL).perform()
        copied = chromium.execute_async_script(
            "navigator.clipboard.readText().then(arguments[0], (e) => arguments[0](String(e)))"
        )
        # The end of the last line is not copied from any page.
        assert copied == file.read_text().rstrip("\n"), (transport, prefix)


def test_a_long_line_scrolls_by_keyboard(browser: Browser, server: Server) -> None:
    browser.look(width=390, height=844)
    browser.get(f"{server.url}/code/websocket")
    code = browser.find_element(By.CSS_SELECTOR, "pre")
    browser.execute_script("arguments[0].focus()", code)
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT * 3).perform()
    eventually(lambda: browser.execute_script("return arguments[0].scrollLeft", code) > 0)


def test_the_page_needs_no_javascript(server: Server, tmp_path: Any) -> None:
    with browsing(tmp_path, javascript=False) as browser:
        browser.get(f"{server.url}/code/websocket")
        browser.find_element(By.PARTIAL_LINK_TEXT, "connect · line").click()
        assert browser.current_url.endswith("/code/websocket#browser-connect")
        target = browser.find_element(By.CSS_SELECTOR, ":target")
        assert target.text.lstrip().startswith("connect(signal) {")
        browser.find_element(By.PARTIAL_LINK_TEXT, "Pushlab").click()
        assert browser.current_url == f"{server.url}/"
