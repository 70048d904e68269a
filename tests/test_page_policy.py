"""What the page owes the server, other tabs, keyboards, screen readers and small screens."""

import re
from collections.abc import Callable, Iterator
from itertools import product

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from lab import static_files
from pushlab.transports import TRANSPORTS
from tests.browsing import LANES, RUNNING, Browser, Part, notice, violations
from tests.conftest import ROOT, Server, Start, eventually, starting
from tests.relay import Relay

FOLDERS = (static_files.OWN, static_files.LIBRARY)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http")


@pytest.fixture(scope="module")
def complete() -> Iterator[Server]:
    """A server whose page has all that a page can have."""
    with starting() as start:
        server = start("serve.py", "--source", "clock", "--every", "3600", "--far", "200")
        eventually(lambda: len(server.out) == 2)
        yield server


def running(browser: Browser) -> list[Part]:
    """The server's card, and the lanes that start with the page."""
    return [browser.truth, *map(browser.lane, RUNNING)]


# Towards the server, and towards other pages.


def sockets(relay: Relay) -> list[bool]:
    """Whether each WebSocket that was opened is still open."""
    return [not each.closed.is_set() for each in relay.naming("Upgrade: websocket")]


def nothing_is_sent(relay: Relay, server: Server) -> bool:
    """Whether a change sends nothing: no socket, no held request, no poll."""
    before = relay.down
    cursor = server.publish({"line": "to nobody"})
    another = server.http.get(f"/update?after={cursor}&timeout=0.6")  # longer than a poll's period
    return another.status == 204 and relay.down == before


def test_a_hidden_page_lets_go_and_comes_back(server: Server, browser: Browser) -> None:
    with Relay(server.port) as relay:
        browser.visit(server, port=relay.port)
        assert sockets(relay) == [True, True], "the instruments, and a lane"
        first = browser.current_window_handle
        browser.switch_to.new_window("tab")
        try:
            eventually(lambda: not any(sockets(relay)))
            eventually(lambda: nothing_is_sent(relay, server))
            server.publish({"line": "while hidden"})
        finally:
            browser.close()
            browser.switch_to.window(first)
        for part in browser.parts:
            part.until_it_shows("while hidden")
        assert [figures["lost"] for figures in browser.figures.values()] == [0] * len(LANES)


def test_leaving_and_going_back(server: Server, browser: Browser) -> None:
    with Relay(server.port) as relay:
        browser.visit(server, port=relay.port)
        browser.execute_script("window.sameDocument = true")
        browser.get("about:blank")
        eventually(lambda: not any(sockets(relay)))
        eventually(lambda: nothing_is_sent(relay, server))
        server.publish({"line": "while away"})
        browser.back()
        for part in browser.parts:
            part.until_it_shows("while away")
        kept = browser.execute_script("return window.sameDocument === true")
        assert kept, "the browser could not keep the page for the Back button"


@pytest.mark.parametrize("kind", ["tab", "window"])
def test_three_pages_at_once(server: Server, browser: Browser, kind: str) -> None:
    first = browser.current_window_handle
    handles = [first]
    try:
        browser.open(server.url)
        for _ in range(2):
            browser.switch_to.new_window(kind)
            handles.append(browser.current_window_handle)
            browser.open(server.url)
        for handle in handles:
            browser.switch_to.window(handle)
            for part in running(browser):
                part.until(lambda part: part.state == "live")
        server.publish({"line": "to all"})
        for handle in handles:
            browser.switch_to.window(handle)
            for part in running(browser):
                part.until_it_shows("to all")
            assert not browser.execute_script("return document.hidden")
            assert [lane["lost"] for lane in browser.figures.values()] == [0] * len(LANES)
    finally:
        for handle in handles[1:]:
            browser.switch_to.window(handle)
            browser.close()
        browser.switch_to.window(first)


def test_it_requests_nothing_from_other_servers(server: Server, browser: Browser) -> None:
    browser.visit(server, "/?present")
    lane = browser.lane("sse")
    lane.until(lambda lane: lane.state == "live")
    urls = {
        params["url"] if name == "webSocketCreated" else params["request"]["url"]
        for name, params in browser.network_log()
        if name in ("webSocketCreated", "requestWillBeSent")
    }
    ours = (f"{server.url}/", f"{server.ws}/")
    assert [url for url in urls if not url.startswith((*ours, "data:"))] == []
    # As many as there are: whatever is preloaded is used, whatever is used is preloaded.
    scripts = {url.removeprefix(f"{server.url}/static/") for url in urls if url.endswith(".js")}
    assert scripts == {
        str(path.relative_to(folder)) for folder in FOLDERS for path in folder.rglob("*.js")
    }
    assert browser.complaints() == []


# How it is made.


def without_comments(text: str) -> str:
    return re.sub(r"\s*(/\*.*?\*/|^// .*?$)", "", text, flags=re.DOTALL | re.MULTILINE)


def test_it_is_small() -> None:
    """60 kB of code, and not much more with the types that its comments declare."""
    paths = [path for folder in FOLDERS for path in folder.rglob("*.*")]
    files = {path.name: path.read_text() for path in paths if path.suffix in (".js", ".css")}
    assert sum(len(without_comments(text)) for text in files.values()) < 60_000
    assert sum(map(len, files.values())) < 85_000


def test_the_browser_halves_are_free_of_instruments() -> None:
    """They import nothing of the lab, and each is its idea in about ten lines."""
    for path in static_files.LIBRARY.rglob("*.js"):
        for module in re.findall(r'\bfrom "([^"]+)"', path.read_text()):
            assert (path.parent / module).resolve().is_relative_to(static_files.LIBRARY), path
    for name in TRANSPORTS:
        text = (static_files.LIBRARY / "transports" / f"{name}.js").read_text()
        body = without_comments(text).partition("extends Subscription {")[2].splitlines()
        assert 8 <= len([line for line in body if len(line.strip()) > 2]) <= 14, name


def test_the_page_is_made_from_the_registry(server: Server) -> None:
    """Titles, taglines, defaults and colours of the transports are written nowhere else."""
    html = server.http.get("/").body.decode()
    style = server.http.get("/static/transports.css").body.decode()
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
def test_all_script_and_style_is_in_files(server: Server, path: str) -> None:
    html = server.http.get(path).body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", html, re.DOTALL) == [""]
    assert not re.findall(r'(?:src|href)="(?!/|#|\?|http://127\.0\.0\.1:)[^"]*"', html)


def test_reduced_motion(server: Server, browser: Browser) -> None:
    """The pictures move in steps, once a second; nothing fades, nothing counts tenths."""
    script = {
        "source": "window.frames_asked = 0; const ask = requestAnimationFrame;"
        "window.requestAnimationFrame = (...args) => (frames_asked++, ask(...args));"
    }
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        browser.visit(server)
        at_first = browser.execute_script("return frames_asked")
        browser.execute_script(
            "window.steps = [];"
            "new MutationObserver(() => steps.push(performance.now()))"
            ".observe(document.querySelector('.field svg'), { attributeFilter: ['style'] });"
        )
        server.publish({"line": "without motion"})
        for part in browser.parts:
            part.until_it_shows("without motion")
            assert re.fullmatch(r"\d+ s", part["since"])
            assert browser.execute_script("return document.getAnimations().length") == 0
        eventually(lambda: len(browser.execute_script("return steps")) >= 3)
        steps = browser.execute_script("return steps")
        assert (steps[-1] - steps[0]) / (len(steps) - 1) > 700
        assert browser.execute_script("return frames_asked") == at_first
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    browser.look(motion=True)  # a changed preference is applied at once
    moves = "return document.querySelector('.field svg').style.transform"
    before = browser.execute_script(moves)
    eventually(lambda: browser.execute_script(moves) != before)
    eventually(lambda: "." in browser.truth["since"])


# By keyboard.

#: Everything on the page that should take the focus, in its order.
FOCUSABLE = """
const all = document.querySelectorAll("a[href], button, select, summary, [tabindex='0']");
const rank = (element) => {
  const { dataset, localName, className } = element;
  const lane = element.closest("[data-transport]")?.dataset.transport ?? "";
  return `${lane} ${dataset.action ?? dataset.control ?? (className || localName)} ${
    element.value ?? element.textContent}`.trim();
};
const expected = [...all].filter(
  (it) => it.checkVisibility() && !it.disabled && !it.closest("dialog"));
"""


def test_the_keyboard_reaches_everything(complete: Server, browser: Browser) -> None:
    browser.open(complete.url)
    browser.truth.until(lambda part: part.state == "live")
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


def test_the_keyboard_works_everything(server: Server, browser: Browser) -> None:
    browser.visit(server)
    lane = browser.lane("poll")

    def press(selector: str, key: str) -> None:
        browser.execute_script("arguments[0].focus()", lane.find(selector))
        ActionChains(browser).send_keys(key).perform()

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
    dialog = browser.find("dialog")
    assert dialog.is_displayed()
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    eventually(lambda: not dialog.is_displayed())
    assert browser.switch_to.active_element == lane.find("[data-action=code]")


def test_what_is_spoken(server: Server, browser: Browser) -> None:
    """A lane's state is spoken when it changes, once; readings are not."""
    browser.visit(server)
    browser.execute_script(
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
    server.publish({"line": "silently"})
    for part in browser.parts:
        part.until_it_shows("silently")
    assert browser.execute_script("return spoken") == []
    browser.lane("websocket").press("stop")
    assert browser.execute_script("return spoken") == ["stopped"]


# In every state: it fits, it can be read, it can be understood.

State = Callable[[Browser, Server, Start], None]

LOAD = {"cpu_percent": 12.5, "memory_percent": 41.3, "load_average": [0.42, 0.31, 1.0]}


def some_updates(browser: Browser, server: Server) -> None:
    """Let there be something to see: a verdict, and pictures."""
    for number in range(4):
        server.publish(LOAD | {"cpu_percent": 12.5 + 4 * (number % 3)})
        eventually(lambda: all(part.shows(server) for part in browser.parts))
    eventually(lambda: "bytes per update" in browser.find(".verdict").text)


def as_it_is_at_first(browser: Browser, server: Server, start: Start) -> None:
    server.publish(LOAD)
    browser.open(server.url)
    for part in running(browser):
        part.until(lambda part: part.state == "live")


def all_running(browser: Browser, server: Server, start: Start) -> None:
    browser.visit(server)
    some_updates(browser, server)


def a_long_text(browser: Browser, server: Server, start: Start) -> None:
    server.publish({"line": "a rather long line " * 50 + "x" * 500})
    browser.visit(server)


def held_with_tables_open(browser: Browser, server: Server, start: Start) -> None:
    browser.visit(server)
    some_updates(browser, server)
    eventually(lambda: all(it["bytes-per-update"] for it in browser.figures.values()))
    browser.find("[data-action=hold]").click()
    for summary in browser.find_elements(By.CSS_SELECTOR, "summary"):
        summary.click()
    browser.execute_script("arguments[0].focus()", browser.lane("longpoll").find(".picture"))
    ActionChains(browser).send_keys(Keys.END, Keys.ARROW_LEFT * 4).perform()


def with_its_server_gone(browser: Browser, server: Server, start: Start) -> None:
    brief = start("serve.py", "--source", "http")
    brief.publish({"line": "the last that arrived"})
    browser.visit(brief)
    brief.stop()
    for part in browser.parts:
        part.until(lambda part: part.state == "retrying")
    browser.control("change").click()
    eventually(lambda: notice(browser))
    assert notice(browser) == ("The instruments are not connected just now.")


def with_a_lane_cut(browser: Browser, server: Server, start: Start) -> None:
    browser.visit(server)
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*-sse*"]})
    lane = browser.lane("sse")
    lane.press("cut")
    lane.until(lambda lane: lane.state == "retrying")


def with_a_dialog(browser: Browser, server: Server, start: Start) -> None:
    as_it_is_at_first(browser, server, start)
    browser.lane("longpoll").press("code")
    eventually(lambda: browser.find_elements(By.CSS_SELECTOR, "dialog pre"))


def without_controls(browser: Browser, server: Server, start: Start) -> None:
    browser.visit(start("serve.py", "--no-controls"))
    eventually(lambda: browser.find("[data-field=rights]").is_displayed())


def on_the_projector(browser: Browser, server: Server, start: Start) -> None:
    browser.visit(server, "/?present")
    some_updates(browser, server)


def on_the_projector_with_a_long_text(browser: Browser, server: Server, start: Start) -> None:
    """The pictures are what is to be seen from afar."""
    server.publish({"line": "a rather long line " * 50 + "x" * 500})
    browser.visit(server, "/?present")
    for width, height in ((1024, 768), (1920, 1080)):
        browser.look(width=width, height=height)
        for lane in map(browser.lane, LANES):
            assert lane.find(".field").size["height"] > 30


#: What the fields show after some hours at a distance.
LARGE = {
    "latency-p50": "12.34 s", "latency-p95": "12.34 s", "latency-last": "12.34 s",
    "bytes-per-update": "999 kB", "bytes-down": "999 MB", "bytes-up": "999 MB",
    "requests-per-update": "99.9", "requests": "123456", "empty": "123456", "messages": "123456",
    "seen": "123456", "coalesced": "123456", "lost": "12", "since": "23 h 59 min",
    "bandwidth": "999 Mbit/s", "formula": "= 10,000 × 999 kB × 10.00/s × 8",
    "load": "1,234,567 requests/s", "sequence": "1234567",
}  # fmt: skip


def after_hours(browser: Browser, server: Server, start: Start) -> None:
    """All is stopped, so that nothing overwrites the fields."""
    as_it_is_at_first(browser, server, start)
    for part in running(browser)[1:]:
        part.press("stop")
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


STATES: list[State] = [
    as_it_is_at_first, all_running, a_long_text, held_with_tables_open, with_its_server_gone,
    with_a_lane_cut, with_a_dialog, without_controls, after_hours,
    on_the_projector, on_the_projector_with_a_long_text,
]  # fmt: skip


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_in_every_state(
    server: Server, start: Start, browser: Browser, axe: str, state: State
) -> None:
    """It fits the screen, and axe-core finds nothing; a picture is kept."""
    name = state.__name__.replace("_", " ")
    sizes = [(1400, 900), (390, 844)]
    if "projector" in name:
        sizes = [(1920, 1080), (1024, 768)]
    width, height = sizes[0]
    browser.look(width=width, height=height)
    try:
        state(browser, server, start)
        found = []
        looks = list(product(sizes, ("light", "dark")))
        if state is not all_running:  # of the others each is looked at once, one after the other
            looks = [looks[STATES.index(state) % 4]]
        for (width, height), scheme in looks:
            browser.look(width=width, height=height, scheme=scheme)
            browser.picture(f"{name}, {scheme}, {width} px")
            assert sideways(browser) == []
            found += violations(browser, axe)
        assert found == []
        for width in (320, 600, 768, 1024):
            browser.look(width=width, height=568)
            assert sideways(browser) == [], width
    finally:
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})


def sideways(browser: Browser) -> list[str]:
    """The elements that make the page scroll sideways."""
    return browser.execute_script(  # type: ignore[no-any-return]
        """
        const { scrollWidth, clientWidth } = document.documentElement;
        if (scrollWidth <= clientWidth) return [];
        const wide = (element) => element.getBoundingClientRect().right > clientWidth + 0.5;
        const clips = (element) =>
          getComputedStyle(element).overflowX !== "visible" || element.localName === "svg";
        const free = (element) => !element || (!clips(element) && free(element.parentElement));
        const all = [...document.querySelectorAll("body *")];
        return [`${scrollWidth} px`, ...all
          .filter((it) => it.checkVisibility() && wide(it) && free(it.parentElement))
          .map((it) => `${it.localName}.${it.className} ${it.textContent.slice(0, 60)}`)];
        """
    )
