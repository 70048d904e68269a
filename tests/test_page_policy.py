"""The page's duties: to servers, tabs, keyboards, readers, screens."""

import re
from collections.abc import Callable, Iterator

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from lab import static_files
from pushlab.transports import TRANSPORTS
from tests.browsing import (
    DESK,
    HALL,
    OLD_PROJECTOR,
    PHONE,
    SIDEWAYS,
    STARTED,
    Browser,
    Look,
    check_looks,
    in_another_tab,
    on_another_page,
)  # fmt: skip
from tests.conftest import ROOT, Server, eventually, starting
from tests.relay import Relay

FOLDERS = (static_files.OWN, static_files.LIBRARY)


# Towards the server, and towards other pages.


def test_a_page_out_of_sight_lets_go_and_comes_back(page_server: Server, browser: Browser) -> None:
    with Relay(page_server.port) as relay:

        def sockets() -> list[bool]:
            """Whether each WebSocket that was opened is still open."""
            return [not each.closed.is_set() for each in relay.naming("Upgrade: websocket")]

        def nothing_is_sent() -> bool:
            """Whether a change sends nothing, over any transport."""
            before = relay.down
            cursor = page_server.publish({"line": "unseen"})
            # Longer than the period of a poll.
            another = page_server.http.get(f"/update?after={cursor}&timeout=0.6")
            return another.status == 204 and relay.down == before

        browser.visit(page_server, port=relay.port)
        assert sockets() == [True, True], "the instruments, and a lane"
        for elsewhere in (in_another_tab, on_another_page):
            with elsewhere(browser):
                eventually(lambda: not any(sockets()))
                eventually(nothing_is_sent)
                cursor = page_server.publish({"line": "while away"})
            browser.until_live(cursor=cursor)
            assert browser.lost == 0


@pytest.mark.parametrize("kind", ["tab", "window"])
def test_three_pages_at_once(page_server: Server, browser: Browser, kind: str) -> None:
    browser.server = page_server
    handles = [browser.current_window_handle]
    try:
        browser.open(page_server.url)
        for _ in range(2):
            browser.switch_to.new_window(kind)
            handles.append(browser.current_window_handle)
            browser.open(page_server.url)
        for handle in handles:
            browser.switch_to.window(handle)
            browser.until_live(STARTED)
        cursor = page_server.publish({"line": "to all"})
        for handle in handles:
            browser.switch_to.window(handle)
            browser.until_live(STARTED, cursor=cursor)
            assert not browser.execute_script("return document.hidden")
            assert browser.lost == 0
    finally:
        for handle in handles[1:]:
            browser.switch_to.window(handle)
            browser.close()
        browser.switch_to.window(handles[0])


def test_it_requests_nothing_from_other_servers(page_server: Server, browser: Browser) -> None:
    browser.visit(page_server, "/?present")
    urls = {
        params["url"] if name == "webSocketCreated" else params["request"]["url"]
        for name, params in browser.network_log()
        if name in ("webSocketCreated", "requestWillBeSent")
    }
    ours = (f"{page_server.url}/", f"{page_server.ws}/", "data:")
    assert [url for url in urls if not url.startswith(ours)] == []
    # As many as there are: whatever is preloaded is used, whatever is used is preloaded.
    static = f"{page_server.url}/static/"
    files = {str(path.relative_to(folder)) for folder in FOLDERS for path in folder.rglob("*.js")}
    scripts = {url.removeprefix(static) for url in urls if url.endswith(".js")}
    # The one is for apps of one's own, the other for a class.
    assert scripts == files - {"push.js", "classroom.js"}
    assert browser.complaints() == []


# How it is made.


def without_comments(text: str) -> str:
    return re.sub(r"\s*(/\*.*?\*/|^// .*?$)", "", text, flags=re.DOTALL | re.MULTILINE)


def test_it_is_small() -> None:
    """104 kB of code, 10 of them the library's and 30 the experiments'."""
    paths = [path for folder in FOLDERS for path in folder.rglob("*.*") if path.name != "push.js"]
    files = {path.name: path.read_text() for path in paths if path.suffix in (".js", ".css")}
    for part in ("classroom.js", "classroom.css"):  # on a class's page alone
        assert len(without_comments(files.pop(part))) < 10_000
    assert sum(len(without_comments(text)) for text in files.values()) < 104_000
    assert sum(map(len, files.values())) < 140_000


def test_the_browser_halves_are_free_of_instruments() -> None:
    """They import nothing of the lab; each is short."""
    for path in static_files.LIBRARY.rglob("*.js"):
        for module in re.findall(r'\bfrom "([^"]+)"', path.read_text()):
            assert (path.parent / module).resolve().is_relative_to(static_files.LIBRARY), path
    for name in TRANSPORTS:
        text = (static_files.LIBRARY / "transports" / f"{name}.js").read_text()
        body = without_comments(text).partition("extends Subscription {")[2].splitlines()
        assert 8 <= len([line for line in body if len(line.strip()) > 2]) <= 14, name


def test_the_page_is_made_from_the_registry(page_server: Server) -> None:
    """A transport's title, tagline, defaults and colours stand nowhere else."""
    html = page_server.http.get("/").body.decode()
    style = page_server.http.get("/static/transports.css").body.decode()
    assert 'href="/static/transports.css"' in html
    template = (ROOT / "templates" / "page.html").read_text()
    for name, transport in TRANSPORTS.items():
        section = re.search(rf'<section [^>]*data-transport="{name}".*?</section>', html, re.DOTALL)
        assert section
        assert ("data-autostart" in section[0]) == transport.autostart
        pressed = "true" if transport.carry else "false"
        assert f'data-action="carry" aria-pressed="{pressed}"' in section[0]
        for text in (transport.title, transport.tagline):
            assert text in section[0]
            assert text not in template
        assert f"--transport: light-dark({', '.join(transport.colour)})" in style


@pytest.mark.parametrize("path", ["/", "/?present"])
def test_all_script_and_style_is_in_files(page_server: Server, path: str) -> None:
    html = page_server.http.get(path).body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", html, re.DOTALL) == [""]
    assert not re.findall(r'(?:src|href)="(?!/|#|\?|http://127\.0\.0\.1:)[^"]*"', html)


#: Counts the frames that the page requests.
COUNT_FRAMES = """
window.framesRequested = 0;
const original = requestAnimationFrame;
window.requestAnimationFrame = (...args) => (framesRequested++, original(...args));
"""
#: Counts the steps in which a picture with strokes moves, and the seconds that this takes.
COUNT_STEPS = """
const begun = performance.now();
let steps = 0;
new MutationObserver(() => (steps += 1)).observe(
  document.querySelector("[data-transport=websocket] .field svg"),
  { attributes: true, subtree: true });
window.steps = () => [steps, (performance.now() - begun) / 1000];
"""


def test_reduced_motion(page_server: Server, browser: Browser) -> None:
    """Pictures move once a second; nothing fades or counts tenths."""
    script = {"source": COUNT_FRAMES}
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    browser.visit(page_server)
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    frames = browser.execute_script("return framesRequested")
    browser.publish("without motion")
    browser.execute_script(COUNT_STEPS)
    for part in browser.parts:
        assert re.fullmatch(r"(\d+ min )?\d+ s", part["since"])
    assert browser.execute_script("return document.getAnimations().length") == 0
    eventually(lambda: browser.execute_script("return steps()[0]") >= 3)
    steps, seconds = browser.execute_script("return steps()")
    assert steps <= seconds + 2, "one may be for the server's report"
    assert browser.execute_script("return framesRequested") == frames
    browser.look(motion=True)  # a changed preference is applied at once
    eventually(lambda: browser.execute_script("return framesRequested") > frames)
    eventually(lambda: "." in browser.truth["since"])


# By keyboard.

#: Everything on the page that should take the focus, in its order.
FOCUSABLE = """
const all = document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']");
const rank = (element) => {
  const { dataset, localName, className } = element;
  const lane = element.closest("[data-transport]")?.dataset.transport ?? "";
  return `${lane} ${dataset.action ?? dataset.control ?? (className || localName)} ${
    element.value ?? element.textContent}`.trim();
};
const expected = [...all].filter(
  (it) => it.checkVisibility() && !it.disabled && !it.closest("dialog"));
"""


@pytest.fixture
def complete() -> Iterator[Server]:
    """A server whose page has every control and link."""
    with starting() as start:
        server = start("serve.py", "--source", "clock", "--every", "3600", "--far", "200")
        eventually(lambda: len(server.out) == 2)
        yield server


def test_the_keyboard_reaches_everything(complete: Server, browser: Browser) -> None:
    browser.open(complete.url)
    browser.until_live("[data-truth]")
    # Started without taking the focus, so that it has a button more to reach.
    browser.execute_script("arguments[0].click()", browser.lane("sse").find("[data-action=stop]"))
    expected = browser.execute_script(
        f"""{FOCUSABLE}
        window.focused = [];
        document.addEventListener("focusin", ({{ target }}) => {{
          const {{ outlineStyle, outlineWidth }} = getComputedStyle(target);
          const seen = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
          focused.push([rank(target), seen]);
        }});
        return expected.map(rank);
        """
    )
    assert len(expected) > 30
    assert len(set(expected)) == len(expected), "each is another"
    ActionChains(browser).send_keys(Keys.TAB * len(expected)).perform()
    focused = browser.execute_script("return focused")
    assert [name for name, _ in focused] == expected
    assert [name for name, seen in focused if not seen] == [], "the focus cannot be seen"


def test_the_keyboard_works_everything(tab: Browser) -> None:
    lane = tab.lane("poll")

    def press(selector: str, key: str) -> None:
        tab.execute_script("arguments[0].focus()", lane.find(selector))
        ActionChains(tab).send_keys(key).perform()

    for key in (Keys.SPACE, Keys.ENTER):
        press("[data-action=stop]", key)
        assert (lane.state == "stopped") is (key == Keys.SPACE)
        carries = lane.carries
        press("[data-action=carry]", key)
        assert lane.carries is not carries
    press("[data-action=period]", Keys.ARROW_DOWN)
    assert Select(lane.find("[data-action=period]")).first_selected_option.text == "1 s"
    press("summary", Keys.ENTER)
    assert lane.find("table").is_displayed()
    press("[data-action=code]", Keys.ENTER)
    dialog = tab.find("dialog.code")
    assert dialog.is_displayed()
    ActionChains(tab).send_keys(Keys.ESCAPE).perform()
    eventually(lambda: not dialog.is_displayed())
    assert tab.switch_to.active_element == lane.find("[data-action=code]")


def test_what_is_spoken(tab: Browser) -> None:
    """A lane's new state is spoken once, readings never."""
    tab.execute_script(
        """
        window.spoken = [];
        const observer = new MutationObserver((changes) => {
          for (const { target } of changes) {
            const element = target.closest ? target : target.parentElement;
            const live = element.closest("[role=status], [role=alert]");
            if (live) spoken.push(live.textContent);
          }
        });
        observer.observe(document.body, { characterData: true, childList: true, subtree: true });
        """
    )
    tab.publish("silently")
    assert tab.execute_script("return spoken") == []
    tab.lane("websocket").press("stop")
    assert tab.execute_script("return spoken") == ["stopped"]


# In every state: it fits, it can be read, it can be understood.

LOAD = {"cpu_percent": 12.5, "memory_percent": 41.3, "load_average": [0.42, 0.31, 1.0]}
LONG_TEXT = {"line": "a rather long line " * 50 + "x" * 500}


def some_updates(browser: Browser) -> None:
    """Publish, and wait for the verdict and the pictures."""
    for number in range(4):
        cpu_percent = 12.5 + 4 * (number % 3)
        cursor = browser.server.publish(LOAD | {"cpu_percent": cpu_percent})
        browser.until_live(cursor=cursor)
    eventually(lambda: "bytes per update" in browser.find(".verdict").text)


def all_running(browser: Browser) -> None:
    browser.visit(browser.server)
    some_updates(browser)


def a_long_text(browser: Browser) -> None:
    browser.server.publish(LONG_TEXT)
    browser.visit(browser.server)


def held_with_tables_open(browser: Browser) -> None:
    all_running(browser)
    eventually(lambda: all(browser.each("bytes-per-update").values()))
    browser.find("[data-action=hold]").click()
    for summary in browser.find_all("summary"):
        summary.click()
    browser.execute_script("arguments[0].focus()", browser.lane("longpoll").find(".picture"))
    ActionChains(browser).send_keys(Keys.END, Keys.ARROW_LEFT * 4).perform()


def with_a_lane_cut(browser: Browser) -> None:
    browser.visit(browser.server)
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*-sse*"]})
    lane = browser.lane("sse")
    lane.press("cut")
    lane.until(lambda lane: lane.state == "retrying")


def with_a_dialog(browser: Browser) -> None:
    browser.open(browser.server.url)
    browser.until_live(STARTED)
    browser.lane("longpoll").press("code")
    eventually(lambda: browser.find_all("dialog pre"))


def on_the_projector(browser: Browser) -> None:
    browser.visit(browser.server, "/?present")
    some_updates(browser)


def on_the_projector_with_a_long_text(browser: Browser) -> None:
    """The pictures are what is to be seen from afar."""
    browser.server.publish(LONG_TEXT)
    browser.visit(browser.server, "/?present")
    for width, height in (OLD_PROJECTOR, HALL):
        browser.look(width=width, height=height)
        for lane in browser.lanes:
            assert lane.find(".field").size["height"] > 30


#: What is not in sight without scrolling, and the smallest text in pixels.
IN_SIGHT = """
const { scrollHeight, clientHeight, clientWidth } = document.documentElement;
const parts = [...document.querySelectorAll(".card, .verdict, .lane :is(.field, dd, button)")];
const shown = parts.filter((it) => it.checkVisibility());
const beyond = shown.filter((it) => {
  const { bottom, right, height } = it.getBoundingClientRect();
  return bottom > clientHeight + 0.5 || right > clientWidth + 0.5 || !height;
});
const texts = [...document.querySelectorAll("body *")].filter((it) => it.checkVisibility()
  && [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
const sizes = texts.map((it) => parseFloat(getComputedStyle(it).fontSize));
const hidden = beyond.map((it) => it.outerHTML.slice(0, 90));
return [scrollHeight <= clientHeight, hidden, Math.min(...sizes)];
"""


@pytest.mark.parametrize(
    ("query", "lanes"),
    [("", list(TRANSPORTS)), ("=longpoll,websocket", ["longpoll", "websocket"])],
    ids=["all", "two"],
)
def test_the_projector_shows_all_lanes_at_once(
    browser: Browser, page_server: Server, query: str, lanes: list[str]
) -> None:
    """From row ten one can read it: 18 px at 1280 x 720 is a fortieth of the picture's height."""
    browser.open(f"{page_server.url}/?present{query}")
    browser.until_live()
    assert sorted(browser.figures) == sorted(lanes)
    for line in ("first", "second", "a line longer than a lane, " * 9 + "and its end", "last"):
        browser.server = page_server
        browser.publish(line)
    eventually(lambda: "bytes per update" in browser.find(".verdict").text)
    for width, height in ((1280, 720), OLD_PROJECTOR, (1366, 768), HALL):
        browser.look(width=width, height=height)
        fits, beyond, smallest = browser.execute_script(IN_SIGHT)
        assert (fits, beyond) == (True, []), (width, height)
        assert browser.execute_script(SIDEWAYS) == []
        assert smallest >= (18 if (width, height) == (1280, 720) else width * 0.014)


@pytest.mark.parametrize("query", ["nope", "longpoll,", "longpoll,%00", "<script>"])
def test_a_lane_that_does_not_exist_is_said(page_server: Server, query: str) -> None:
    response = page_server.http.get(f"/?present={query}")
    assert response.status == 400
    assert response.json["error"].endswith("; there are: poll, longpoll, sse, websocket")


#: What the fields show after some hours at a distance.
LARGE = {
    "latency-p50": "12.34 s", "latency-p95": "12.34 s", "latency-last": "12.34 s",
    "bytes-per-update": "999 kB", "bytes-down": "999 MB", "bytes-up": "999 MB",
    "requests-per-update": "99.9", "requests": "123456", "empty": "123456", "messages": "123456",
    "seen": "123456", "coalesced": "123456", "lost": "12", "since": "23 h 59 min",
    "bandwidth": "999 Mbit/s", "formula": "= 10,000 × 999 kB × 10.00/s × 8",
    "load": "1,234,567 requests/s", "sequence": "1234567",
}  # fmt: skip


def after_hours(browser: Browser) -> None:
    """All is stopped, so that nothing overwrites the fields."""
    browser.visit(browser.server)
    for lane in browser.lanes:
        lane.press("stop")
    browser.execute_script(
        """
        for (const [name, text] of Object.entries(arguments[0])) {
          for (const field of document.querySelectorAll(`.lane [data-field=${name}]`)) {
            const fixed = document.createElement("span");
            fixed.textContent = text;
            field.replaceChildren(fixed);
            Object.defineProperty(field, "textContent", { set() {}, get: () => text });
          }
        }
        """,
        LARGE,
    )


#: Each state, and how it is looked at. (What the page looks like at first, without its server and
#: without rights is looked at by the tests that are about that.)
STATES: list[tuple[Callable[[Browser], None], list[Look]]] = [
    # Contrast does not depend on the width, nor the layout on the colours.
    (all_running, [(DESK, "light"), (PHONE, "dark")]),
    (a_long_text, [(PHONE, "light")]),
    (held_with_tables_open, [(PHONE, "dark")]),
    (with_a_lane_cut, [(DESK, "dark")]),
    (with_a_dialog, [(PHONE, "light")]),
    (after_hours, [(DESK, "light")]),
    (on_the_projector, [(HALL, "dark")]),
    (on_the_projector_with_a_long_text, [(OLD_PROJECTOR, "light")]),
]


@pytest.mark.parametrize(("state", "looks"), STATES, ids=lambda each: getattr(each, "__name__", ""))
def test_in_every_state(
    page_server: Server, browser: Browser, axe: str,
    state: Callable[[Browser], None], looks: list[Look],
) -> None:  # fmt: skip
    """Check that it fits, and that axe-core finds nothing."""
    browser.server = page_server
    (width, height), _ = looks[0]
    browser.look(width=width, height=height)
    try:
        state(browser)
        check_looks(browser, axe, state.__name__.replace("_", " "), *looks)
    finally:
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
