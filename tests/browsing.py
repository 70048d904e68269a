"""Chromium, with short names for the parts of the page."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from pushlab.transports import TRANSPORTS
from tests.clients import HANG_TIMEOUT, LabPage
from tests.conftest import ROOT, Server, eventually, starting, until_same

LANES = tuple(TRANSPORTS)
#: Those that run at first; an event stream would hold one more of a browser's six connections.
RUNNING = tuple(name for name, transport in TRANSPORTS.items() if transport.autostart)
SCREENSHOTS = ROOT / "build" / "screenshots"

#: Selectors: the server's card and all lanes; those of them that start with the page.
ALL, STARTED = "[data-truth], [data-transport]", "[data-truth], [data-autostart]"

#: The figures that a lane shows, as numbers where they are some; null where there is none yet.
FIGURES = """
const read = (field) =>
  field.localName === "data" ? (field.value === "" ? null : Number(field.value))
  : /^\\d+$/.test(field.textContent) ? Number(field.textContent) : field.textContent;
const lanes = {};
for (const lane of document.querySelectorAll("section[data-transport]")) {
  const fields = lane.querySelectorAll("[data-field]:not([data-field=diagram])");
  lanes[lane.dataset.transport] = {
    ...Object.fromEntries([...fields].map((field) => [field.dataset.field, read(field)])),
    state: lane.dataset.state, cursor: lane.dataset.cursor,
  };
}
return lanes;
"""

#: Whether all parts of a selector are live, and show this cursor and this text; null is any.
LIVE = """
const [selector, cursor, text] = arguments;
return [...document.querySelectorAll(selector)].every((part) =>
  part.dataset.state === "live" && part.dataset.cursor === (cursor ?? part.dataset.cursor)
  && (text === null || part.querySelector("[data-field=value]").innerText.trim() === text));
"""

#: Notes each change of a lane's state, however short: [transport, state].
WATCH_STATES = """
window.states = [];
const observer = new MutationObserver((changes) => {
  for (const { target, oldValue } of changes) {
    const { transport, state } = target.dataset;
    if (state !== oldValue) states.push([transport, state]);
  }
});
for (const lane of document.querySelectorAll("section[data-transport]")) {
  observer.observe(lane, { attributeFilter: ["data-state"], attributeOldValue: true });
}
"""

Event = tuple[str, dict[str, Any]]


@dataclass
class Request:
    """A request of a lane."""

    url: str
    sent_at: float  #: seconds, by a clock of the browser's
    conditional: bool = False  #: it has an If-None-Match
    status: int = 0  #: of its response, if there was one
    received: int = 0  #: events or frames

    @property
    def lane(self) -> str:
        found = re.search(r"[?&]lane=([\w-]+)", self.url)
        return found[1] if found else ""

    @property
    def transport(self) -> str:
        return self.lane.split("-")[1]

    @property
    def messages(self) -> int:
        """How often it brought news: not by fetching after signals."""
        if self.transport in ("sse", "websocket"):
            return self.received
        for_news = "/update?" in self.url or self.conditional
        return int(self.status == 200 and for_news)


class Browser(webdriver.Chrome):
    """Chromium, and what the tests do with the page."""

    def __init__(self, *, profile: Path, javascript: bool = True) -> None:
        options = webdriver.ChromeOptions()
        for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
                         "disable-quic", "no-first-run", "disable-background-networking",
                         "disable-component-update", "disable-sync", "lang=en-US",
                         # Pictures that move take half a core for each page that is open.
                         "force-prefers-reduced-motion",
                         # One process for all pages: a new one takes half a second of each page.
                         "renderer-process-limit=1", "disable-site-isolation-trials",
                         "disable-features=SpareRendererForSitePerProcess",
                         "window-size=1400,900", f"user-data-dir={profile}"):  # fmt: skip
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        if not javascript:
            options.add_experimental_option(
                "prefs", {"profile.managed_default_content_settings.javascript": 2}
            )
        super().__init__(options, Service("/usr/bin/chromedriver"))
        self.set_script_timeout(HANG_TIMEOUT)
        self._events: list[Event] = []
        self.server: Server  #: that of the page that is open

    def open(self, url: str) -> None:
        """Go there, with nothing in the logs yet."""
        self.get("about:blank")  # the page before, or a new tab's own, may still send requests
        for log in ("performance", "browser"):
            self.get_log(log)
        self._events = []
        self.get(url)

    def visit(self, server: Server, path: str = "/", *, port: int = 0) -> "Browser":
        """Open the page, start every lane, wait for all."""
        self.server = server
        self.open(server.url.replace(str(server.port), str(port or server.port)) + path)
        self.until_live("[data-truth]")
        self.execute_script(
            "document.querySelectorAll('[data-state=stopped] [data-action=stop]')"
            ".forEach((button) => button.click())"
        )
        self.until_live()
        return self

    def until_live(
        self, selector: str = ALL, *, cursor: str | None = None, text: str | None = None
    ) -> None:
        """Wait until these parts are live, and show this reading."""
        eventually(lambda: self.execute_script(LIVE, selector, cursor, text))

    def publish(self, line: str, selector: str = ALL) -> None:
        """Publish a line, and wait until these parts show it."""
        self.until_live(selector, cursor=self.server.publish({"line": line}), text=line)

    def lane(self, transport: str) -> "Part":
        return Part(self, f'[data-transport="{transport}"]')

    @property
    def truth(self) -> "Part":
        return Part(self, "[data-truth]")

    @property
    def lanes(self) -> "list[Part]":
        return [self.lane(transport) for transport in LANES]

    @property
    def parts(self) -> "list[Part]":
        return [self.truth, *self.lanes]

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """What each lane shows, all at one moment."""
        return self.execute_script(FIGURES)  # type: ignore[no-any-return]

    def each(self, figure: str) -> dict[str, Any]:
        """One figure of each lane."""
        return {transport: figures[figure] for transport, figures in self.figures.items()}

    @property
    def lost(self) -> int:
        """Readings that a lane has lost, of all lanes."""
        return sum(self.each("lost").values())

    def find(self, selector: str) -> Any:
        return self.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[Any]:
        return self.find_elements(By.CSS_SELECTOR, selector)

    def control(self, name: str, value: str = "") -> Any:
        """The button of a control that acts for all pages."""
        return self.find(f'[data-control="{name}"]' + (f'[value="{value}"]' if value else ""))

    @property
    def notice(self) -> str:
        """The notice that the page shows just now."""
        return str(self.find("[data-field=notice]").text)

    def until_notice(self, text: str) -> None:
        """Wait until the page shows this notice."""
        until_same(lambda: (self.notice, text))

    @property
    def states(self) -> list[list[str]]:
        """Changes of the lanes' states since WATCH_STATES: transport, state."""
        return self.execute_script("return window.states")  # type: ignore[no-any-return]

    # Chromium's own tools.

    def network_log(self) -> list[Event]:
        """The browser's own network events since `open`: names and parameters."""
        for entry in self.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"].startswith("Network."):
                self._events.append((message["method"].removeprefix("Network."), message["params"]))
        return self._events

    @property
    def requests(self) -> "list[Request]":
        """The lanes' requests by that log, oldest first."""
        requests: dict[str, Request] = {}
        for name, params in self.network_log():
            if name == "webSocketCreated":
                requests[params["requestId"]] = Request(params["url"], 0.0)  # the event has no time
            elif name == "requestWillBeSent":
                sent = params["request"]
                conditional = "If-None-Match" in sent["headers"]
                requests[params["requestId"]] = Request(
                    sent["url"], params["timestamp"], conditional
                )
            elif request := requests.get(params.get("requestId", "")):
                if name in ("responseReceived", "webSocketHandshakeResponseReceived"):
                    request.status = params["response"]["status"]
                elif name in ("webSocketFrameReceived", "eventSourceMessageReceived"):
                    request.received += 1
        return [request for request in requests.values() if request.lane]

    @property
    def lane_ids(self) -> dict[str, str]:
        """The lanes' names on the server, by transport."""
        return {request.transport: request.lane for request in self.requests}

    def complaints(self) -> list[str]:
        """The console's messages, also of what the policy has blocked."""
        return [entry["message"] for entry in self.get_log("browser")]

    def errors(self) -> list[str]:
        """Complaints that a stopped server does not explain."""
        return [
            entry["message"]
            for entry in self.get_log("browser")
            if entry["level"] == "SEVERE"
            and entry["source"] != "network"
            and "WebSocket connection to" not in entry["message"]
        ]

    def look(
        self, *, width: int = 1400, height: int = 900, scheme: str = "light", motion: bool = False
    ) -> None:
        """Set the screen's size and the reader's preferences."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        preferences = {
            "prefers-color-scheme": scheme,
            "prefers-reduced-motion": "no-preference" if motion else "reduce",
        }
        features = [{"name": name, "value": value} for name, value in preferences.items()]
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def look_as_before(self) -> None:
        self.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def picture(self, name: str) -> None:
        """Keep a screenshot for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        size = self.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        whole = {"captureBeyondViewport": True, "clip": size | {"scale": 1}}
        png = self.execute_cdp_cmd("Page.captureScreenshot", whole)["data"]
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(png))


class Part:
    """A lane, or the server's own card."""

    def __init__(self, browser: Browser, selector: str) -> None:
        self.browser, self.selector = browser, selector

    def find(self, inside: str) -> Any:
        return self.browser.find(f"{self.selector} {inside}")

    @property
    def state(self) -> str:
        return str(self.browser.find(self.selector).get_attribute("data-state"))

    def __getitem__(self, field: str) -> str:
        return str(self.find(f'[data-field="{field}"]').text)

    def until(self, condition: "Callable[[Part], Any]") -> None:
        """Wait until the condition holds for this part."""
        eventually(lambda: condition(self))

    def until_it_is_past(self, sequence: int) -> None:
        """Wait until it shows a later reading than this one."""
        self.until(lambda part: int(part["sequence"]) > sequence)

    def press(self, action: str) -> None:
        self.find(f'[data-action="{action}"]').click()

    @property
    def carries(self) -> bool:
        """Whether it carries readings instead of signals."""
        return bool(self.find('[data-action="carry"]').get_attribute("aria-pressed") == "true")

    def set_carry(self, carry: bool) -> None:
        """Switch it if need be; wait until it is live."""
        if self.carries != carry:
            self.press("carry")
        self.browser.until_live(self.selector)


AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, whose package would need another browser."""
    package = find_spec("axe_playwright_python")
    assert package
    assert package.origin
    return (Path(package.origin).parent / "axe.min.js").read_text()


def violations(browser: Browser, axe: str) -> list[str]:
    """What axe-core finds: the rule, where, and what is wrong."""
    browser.execute_script(f"if (!window.axe) {{ {axe} }}")
    found = browser.execute_async_script(
        "const [values, done] = arguments;"
        "axe.run({ exclude: '.field svg' },"
        " { runOnly: { type: 'tag', values }, resultTypes: ['violations'] })"
        ".then((result) => done(result.violations), (error) => done(String(error)));",
        AXE_TAGS,
    )
    assert isinstance(found, list), found
    return [
        f"{violation['id']}: {node['target']}: {node['failureSummary']}"
        for violation in found
        for node in violation["nodes"]
    ]


#: The elements that make the page scroll sideways.
SIDEWAYS = """
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

#: Texts of which an end is cut off.
CUT_OFF = """
const isCut = (it) => it.scrollWidth > it.clientWidth + 1 || it.scrollHeight > it.clientHeight + 1;
return [...document.querySelectorAll(".words, button")]
  .filter((it) => it.checkVisibility() && isCut(it)).map((it) => it.textContent);
"""

#: Screens: width and height in pixels.
DESK, PHONE, HALL, OLD_PROJECTOR = (1400, 900), (390, 844), (1920, 1080), (1024, 768)
Look = tuple[tuple[int, int], str]


def check_looks(browser: Browser, axe: str, name: str, *looks: Look) -> None:
    """Check that the page fits, no text is cut off, and axe-core finds nothing.

    A look is a screen, and light or dark. Pictures are kept. Narrow screens are only to fit.
    """
    for (width, height), scheme in looks:
        browser.look(width=width, height=height, scheme=scheme)
        browser.picture(f"{name}, {scheme}, {width} px")
        assert browser.execute_script(SIDEWAYS) == []
        assert browser.execute_script(CUT_OFF) == []
        assert violations(browser, axe) == []
    for width in (320, 600, 768, 1024):
        browser.look(width=width, height=568)
        assert browser.execute_script(SIDEWAYS) == [], width


@contextmanager
def in_another_tab(browser: Browser) -> Iterator[None]:
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        yield
    finally:
        browser.close()
        browser.switch_to.window(first)


@contextmanager
def on_another_page(browser: Browser) -> Iterator[None]:
    browser.execute_script("window.sameDocument = true")
    browser.get("about:blank")
    yield
    browser.back()
    kept = browser.execute_script("return window.sameDocument === true")
    assert kept, "the browser could not keep the page for the Back button"


@contextmanager
def browsing(profile: Path, **options: Any) -> Iterator[Browser]:
    browser = Browser(profile=profile, **options)
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests."""
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser, reset after each test."""
    first = chromium.current_window_handle
    yield chromium
    try:
        assert chromium.errors() == []
    finally:
        for other in set(chromium.window_handles) - {first}:  # of a test that has failed
            chromium.switch_to.window(other)
            chromium.close()
        chromium.switch_to.window(first)
        chromium.look_as_before()
        chromium.get("about:blank")


@pytest.fixture(scope="session")
def page_server() -> Iterator[Server]:
    """A server for page tests, which publish its data."""
    with starting() as start:
        yield start("serve.py", "--source", "http")


@pytest.fixture
def tab(browser: Browser, page_server: Server) -> Browser:
    """The browser with the page open and live."""
    return browser.visit(page_server)


@pytest.fixture
def modules(chromium: Browser, page_server: Server) -> Browser:
    """The browser, for scripts that import the page's modules."""
    if chromium.current_url != f"{page_server.url}/":  # a test between has been elsewhere
        chromium.open(page_server.url)
    return chromium


@pytest.fixture
def lab_of() -> Iterator[Callable[[Server], LabPage]]:
    """Connections to the instruments, as another page has them."""
    pages: list[LabPage] = []

    def lab_of(server: Server) -> LabPage:
        pages.append(LabPage(server.ws))
        return pages[-1]

    yield lab_of
    for page in pages:
        page.close()
