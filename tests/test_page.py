"""The page in a real Chromium: what a person sees, also when the server goes away."""

import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from pushlab.headline import headline
from pushlab.measure import wire
from tests.conftest import ROOT, Server, Start, eventually

LANES = ("websocket", "longpoll")
SCREENSHOTS = ROOT / "build" / "screenshots"


class Browser(webdriver.Chrome):
    """Chromium with short words for what the page's contract names."""

    def __init__(self, *, profile: Path, javascript: bool = True) -> None:
        options = webdriver.ChromeOptions()
        for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
                         "disable-quic", "no-first-run", "disable-background-networking",
                         "disable-component-update", "disable-sync", "lang=en-US",
                         "window-size=1400,900", f"user-data-dir={profile}"):  # fmt: skip
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        if not javascript:
            options.add_experimental_option(
                "prefs", {"profile.managed_default_content_settings.javascript": 2}
            )
        super().__init__(options, Service("/usr/bin/chromedriver"))

    def lane(self, transport: str) -> "Part":
        return Part(self, f'[data-transport="{transport}"]')

    @property
    def truth(self) -> "Part":
        return Part(self, "[data-truth]")

    @property
    def parts(self) -> "list[Part]":
        return [self.truth, *map(self.lane, LANES)]

    def complaints(self) -> list[str]:
        """What the page has written to the console, and what its policy has stopped."""
        return [entry["message"] for entry in self.get_log("browser")]


class Part:
    """A lane, or the truth."""

    def __init__(self, browser: Browser, selector: str) -> None:
        self.browser, self.selector = browser, selector

    def _element(self, inside: str = "") -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, f"{self.selector} {inside}")

    @property
    def state(self) -> str:
        return str(self._element().get_attribute("data-state"))

    def __getitem__(self, field: str) -> str:
        return str(self._element(f'[data-field="{field}"]').text)

    @property
    def since(self) -> float:
        """The time since update in seconds."""
        found = re.fullmatch(r"(?:(\d+) min )?([\d.]+) s", self["since"])
        assert found, self["since"]
        return 60 * int(found[1] or 0) + float(found[2])

    def until(self, condition: "Callable[[Part], Any]") -> None:
        """Wait until the condition holds for this part."""
        eventually(lambda: condition(self))

    def until_it_shows(self, text: str) -> None:
        """Wait until it is live and shows this value."""
        self.until(lambda part: part.state == "live" and part["value"] == text)

    def until_it_is_past(self, sequence: int) -> None:
        """Wait until it shows a later reading than this one."""
        self.until(lambda part: int(part["sequence"]) > sequence)

    def press(self, action: str) -> None:
        self._element(f'[data-action="{action}"]').click()

    def shows(self, server: Server) -> bool:
        """Whether it shows the newest reading of the server."""
        newest = server.http.get("/data").json["cursor"]
        return self["sequence"] == str(newest).rpartition("-")[2]


@contextmanager
def browsing(profile: Path, **options: Any) -> Iterator[Browser]:
    browser = Browser(profile=profile, **options)
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


Visit = Callable[[Server], Browser]


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    """Open the page and wait until everything on it is live; leave it in the end."""

    def visit(server: Server) -> Browser:
        chromium.get(server.url)
        chromium.get_log("browser")
        eventually(lambda: all(part.state == "live" for part in chromium.parts))
        return chromium

    yield visit
    chromium.get("about:blank")


def picture(browser: Browser, name: str) -> None:
    """Keep a screenshot for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


def test_both_lanes_follow_the_truth(server: Server, visit: Visit) -> None:
    page = visit(server)
    for number in range(5):
        server.publish({"line": f"reading {number}"})
        for part in page.parts:
            part.until_it_shows(f"reading {number}")
            assert part.shows(server)
            assert part.state == "live"
    assert page.complaints() == []


def test_a_burst_ends_at_the_newest(server: Server, visit: Visit) -> None:
    page = visit(server)
    for number in range(50):
        server.publish({"line": f"burst {number}"})
    for part in page.parts:
        part.until(lambda part: part["value"] == "burst 49" and part.shows(server))


def test_time_since_update_ticks(server: Server, visit: Visit) -> None:
    page = visit(server)
    server.publish({"line": "tick"})
    for part in page.parts:
        part.until_it_shows("tick")
    started = {part.selector: (part.since, time.monotonic()) for part in page.parts}
    for part in page.parts:
        part.until(lambda part: part.since >= started[part.selector][0] + 1.5)
        since, at = started[part.selector]
        assert part.since - since == pytest.approx(time.monotonic() - at, abs=0.5)
    server.publish({"line": "tock"})
    for part in page.parts:
        part.until_it_shows("tock")
        assert part.since < 1.5


def test_the_machines_load_is_shown(start: Start, program: str, visit: Visit) -> None:
    server = start(program, "--every", "0.3")
    page = visit(server)
    for part in page.parts:
        assert re.fullmatch(r"CPU \d+\.\d %", part["value"])
        part.until_it_is_past(int(part["sequence"]) + 2)


def test_printf_shows_its_last_line(start: Start, program: str, visit: Visit) -> None:
    """`printf 'one\\ntwo\\n' | python serve.py --source stdin`"""
    with subprocess.Popen(["printf", r"one\ntwo\n"], stdout=subprocess.PIPE) as printf:
        assert printf.stdout is not None
        server = start(program, "--source", "stdin", stdin=printf.stdout.fileno())
    page = visit(server)
    for part in page.parts:
        part.until_it_shows("two")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_dies_and_comes_back(
    start: Start, program: str, visit: Visit, how: signal.Signals
) -> None:
    server = Server(program, "--source", "http")
    server.publish({"line": "before"})
    page = visit(server)
    page.execute_script("window.sameDocument = true")
    for part in page.parts:
        part.until_it_shows("before")
    server.process.send_signal(how)
    server.wait()
    for part in page.parts:
        part.until(lambda part: part.state in ("retrying", "connecting"))
        part.until(lambda part: "retrying in" in part["state"])
        assert part["value"] == "before"
    picture(page, f"server gone, {program}")
    ages = [part.since for part in page.parts]
    time.sleep(1.1)  # what is to be seen is that time goes by
    assert all(part.since >= age + 1 for part, age in zip(page.parts, ages, strict=True))

    again = start(program, "--source", "http", port=server.port)
    again.publish({"line": "after"})
    for part in page.parts:
        part.until_it_shows("after")
        assert part["sequence"] == "1"
    assert page.execute_script("return window.sameDocument") is True


def test_what_happened_while_away_is_caught_up(server: Server, visit: Visit) -> None:
    """A stopped lane keeps what it shows; started again it goes on with the newest."""
    server.publish({"line": "seen"})
    page = visit(server)
    for transport in LANES:
        lane = page.lane(transport)
        lane.until_it_shows("seen")
        lane.press("stop")
        assert lane.state == "stopped"
    server.publish({"line": "missed"})
    server.publish({"line": "newest"})
    eventually(lambda: page.truth["value"] == "newest")
    for transport in LANES:
        lane = page.lane(transport)
        assert (lane.state, lane["value"]) == ("stopped", "seen")
        lane.press("stop")
        lane.until_it_shows("newest")


@pytest.mark.parametrize("transport", LANES)
def test_carry_saves_the_fetch(server: Server, visit: Visit, transport: str) -> None:
    page = visit(server)
    for other in LANES:
        if other != transport:
            page.lane(other).press("stop")
    lane = page.lane(transport)

    def fetches_for(line: str) -> int:
        page.get_log("performance")
        server.publish({"line": line})
        eventually(lambda: lane["value"] == line)
        log = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
        sent = [m["params"] for m in log if m["method"] == "Network.requestWillBeSent"]
        return sum(params["request"]["url"].partition("?")[0].endswith("/data") for params in sent)

    assert fetches_for("by signal") == 1
    lane.press("carry")
    eventually(lambda: lane.state == "live")
    eventually(lambda: lane.shows(server))
    assert fetches_for("by carry") == 0


def test_times_are_in_the_readers_time_zone(server: Server, visit: Visit) -> None:
    server.publish({"time": "2026-01-15T12:00:00+00:00"})
    page = visit(server)
    try:
        page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
        page.refresh()
        eventually(lambda: page.truth.state == "live")
        for part in page.parts:
            part.until(lambda part: re.search(r"\b(21|9):00:00", part["value"]))
        changed = page.find_element(
            By.CSS_SELECTOR, '[data-truth] [data-field="changed-at"]'
        ).get_attribute("datetime")
        assert changed
        moment = datetime.fromisoformat(changed.replace("Z", "+00:00"))
        assert abs(moment.timestamp() - time.time()) < 60
    finally:
        page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


VALUES: list[dict[str, Any]] = [
    {},
    {"line": "two"},
    {"line": ""},
    {"line": 5},
    {"cpu_percent": 12.5, "memory_percent": 41.3, "load_average": [0.42, 0.36, 0.31]},
    {"cpu_percent": 7, "memory_percent": 41.0, "load_average": [1.0, 2, 3.25]},
    {"cpu_percent": 12.25},
    {"cpu_percent": "high"},
    {"temperature": 21.5, "unit": "°C", "ok": True, "none": None, "list": [1, 2.0, "x"]},
    {"deep": {"er": [{}]}, "tag": "<b>&amp;</b>", "quote": '"', "line\n": "break"},
    {"time": "not a time"},
]


@pytest.mark.parametrize("value", VALUES, ids=json.dumps)
def test_the_first_paint_says_what_the_script_says(
    server: Server, visit: Visit, value: dict[str, Any]
) -> None:
    page = visit(server)
    server.publish(value)
    eventually(lambda: all(part.shows(server) for part in page.parts))
    for part in page.parts:
        said = page.execute_script(
            "return document.querySelector(arguments[0]).textContent.trim()",
            f'{part.selector} [data-field="value"]',
        )
        assert said == headline(value).strip()


def test_without_javascript(server: Server, tmp_path: Path) -> None:
    server.publish({"line": "no script needed"})
    with browsing(tmp_path, javascript=False) as page:
        page.get(server.url)
        for part in page.parts:
            assert part["value"] == "no script needed"
        assert "reload" in page.find_element(By.TAG_NAME, "body").text
        picture(page, "without JavaScript")
        server.publish({"line": "it came by reloading"})
        eventually(lambda: reloaded(page) == "it came by reloading")


def reloaded(page: Browser) -> str:
    try:
        return page.truth["value"]
    except (NoSuchElementException, StaleElementReferenceException):  # in mid-reload
        return ""


def test_a_hidden_page_lets_go_and_comes_back(start: Start, visit: Visit) -> None:
    server = start("serve.py", "--source", "http")
    page = visit(server)
    first = page.current_window_handle
    page.switch_to.new_window("tab")
    try:
        server.publish({"line": "while hidden"})
    finally:
        page.close()
        page.switch_to.window(first)
    for part in page.parts:
        part.until_it_shows("while hidden")


def test_leaving_and_going_back(server: Server, visit: Visit) -> None:
    page = visit(server)
    page.get("about:blank")
    server.publish({"line": "while away"})
    page.back()
    for part in page.parts:
        part.until_it_shows("while away")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits(server: Server, visit: Visit, scheme: str, width: int) -> None:
    server.publish({"line": "a rather long line " * 50 + "x" * 500})
    page = visit(server)
    page.set_window_size(1400, 900)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    try:
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        server.publish({"cpu_percent": 12.5, "memory_percent": 41.3, "load_average": [0.4, 0.3, 1]})
        eventually(lambda: all(part.shows(server) for part in page.parts))
        for part in page.parts:
            assert part["details"] == "memory 41 % · load average 0.40 0.30 1.00"
        picture(page, f"{scheme}, {width} px")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_measured_requests_are_those_of_chromium(tmp_path: Path) -> None:
    """pushlab.measure.wire sends what this browser sends, header by header."""
    heard: dict[str, list[str]] = {}
    script = (
        "<script type=module>const data = () => fetch('/data', {cache: 'no-cache'});"
        "await data(); await data();"
        "await fetch('/update?after=x', {cache: 'no-store'});"
        "new WebSocket(`ws://${location.host}/update`)"
        "</script>"
    )

    def answer(connection: socket.socket) -> None:
        with connection:
            while head := connection.recv(65536).decode():
                line, *headers = head.split("\r\n")
                path = line.split()[1].partition("?")[0]
                if "Upgrade: websocket" in headers:
                    path = "websocket"
                heard[path] = [header.partition(":")[0] for header in headers]
                body = script if path == "/" else "{}"
                connection.sendall(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nCache-Control: no-cache\r\n"
                    f'ETag: "x-1"\r\nContent-Length: {len(body)}\r\n\r\n{body}'.encode()
                )

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener, browsing(tmp_path) as page:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        page.get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        eventually(lambda: "websocket" in heard)
        listener.shutdown(socket.SHUT_RDWR)

    def names(template: str, **parts: str) -> list[str]:
        every = dict.fromkeys(("path", "host", "agent", "cache", "etag", "key"), "")
        filled = template.format(**(every | parts))
        return [line.partition(":")[0] for line in filled.split("\r\n")[1:]]

    etag = 'If-None-Match: "x-1"\r\n'
    assert heard["/data"] == names(wire.FETCH, cache=wire.NO_CACHE, etag=etag)
    assert heard["/update"] == names(wire.FETCH, cache=wire.NO_STORE)
    assert heard["websocket"] == names(wire.HANDSHAKE)
