"""The page in Chromium, also while its server is down."""

import re
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.support.select import Select

from bench.clients.chromium import EVENT_SOURCE, FETCH, HANDSHAKE, NAVIGATE
from lab.summary import headline
from tests.browsing import (
    DESK,
    LANES,
    PHONE,
    RUNNING,
    STARTED,
    Browser,
    browsing,
    check_looks,
)
from tests.conftest import Server, Start, eventually, until_same

LOAD = {"cpu_percent": 12.5, "memory_percent": 41.3, "load_average": [0.42, 0.31, 1.0]}


def test_at_first_all_run_but_the_event_stream(
    page_server: Server, browser: Browser, axe: str
) -> None:
    page_server.publish(LOAD)
    browser.open(page_server.url)
    browser.until_live(STARTED)
    check_looks(browser, axe, "at first", (DESK, "light"))
    stopped = browser.lane("sse")
    button = stopped.find("[data-action=stop]")
    assert stopped.state == "stopped"
    assert (button.text, button.accessible_name) == ("Start", "Start Server-sent events")
    assert not stopped.find("[data-action=cut]").is_enabled()
    assert set(browser.lane_ids) == set(RUNNING)
    figures = browser.figures["sse"]
    counts = ("requests", "empty", "messages", "seen", "coalesced", "lost")
    assert [figures[name] for name in counts] == [0] * len(counts)
    assert figures["latency-p50"] is figures["bytes-per-update"] is None
    stopped.press("stop")
    browser.until_live()
    assert button.text == "Stop"
    assert stopped.find("[data-action=cut]").is_enabled()
    assert set(browser.lane_ids) == set(LANES)


#: What the parts show as the time since the update, and what it is, in seconds.
AGES = """
const [done] = arguments;
import("/static/clock.js").then(({ serverNow }) => {
  const changed = Date.parse(document.querySelector("[data-field=changed-at]").dateTime);
  const shown = [...document.querySelectorAll("[data-field=since]")].map((it) => it.textContent);
  done([shown, (serverNow() - changed) / 1000]);
}, (error) => done(String(error)));
"""


def ages(browser: Browser) -> tuple[list[float], float]:
    """The age of the reading in seconds: shown, and true."""
    shown, age = browser.execute_async_script(AGES)
    found = [re.fullmatch(r"(?:(\d+) min )?(\d+\.?\d*) s", text) for text in shown]
    return [60 * int(each[1] or 0) + float(each[2]) for each in found if each], age


def test_time_since_update_ticks(tab: Browser) -> None:
    tab.look(motion=True)  # by tenths

    def is_right() -> bool:
        shown, age = ages(tab)
        return age > 0.5 and all(0 <= age - each < 0.3 for each in shown)

    for line in ("tick", "tock"):
        tab.publish(line)
        eventually(is_right)
        assert re.fullmatch(r"(\d+ min )?\d+(\.\d)? s", tab.truth["since"])


#: The age that each part shows, in seconds.
SHOWN_AGES = """
return [...document.querySelectorAll("[data-field=since]")].map((it) => {
  const [, h, min, s] = it.textContent.match(/^(?:(\\d+) h )?(?:(\\d+) min ?)?(?:([\\d.]+) s)?$/);
  return 3600 * (h ?? 0) + 60 * (min ?? 0) + Number(s ?? 0);
});
"""
FORWARD, BACK = signal.SIGUSR1, signal.SIGUSR2


@pytest.mark.parametrize("jumps", [[FORWARD], [FORWARD, BACK], [BACK, BACK]], ids=str)
def test_the_servers_clock_is_set(browser: Browser, jumps: list[signal.Signals]) -> None:
    """Ages and figures stay right, with a change and without one."""
    server = Server("tests/set_clock.py", "--source", "http")
    browser.visit(server)
    browser.publish("before")

    def ages_are_right() -> bool:
        # Less than a hang takes, and far less than the hour by which the clock is set.
        return all(age < 60 for age in browser.execute_script(SHOWN_AGES))

    offset = server.http.get("/data").json["changed_at"] - time.time()
    for jump in jumps:
        server.process.send_signal(jump)
        offset += 3600 if jump is FORWARD else -3600

        def is_known(expected: float = offset * 1000) -> bool:
            text = browser.find("[data-field=offset]").text.replace("\u2212", "-")
            return abs(float(text) - expected) < 60_000

        eventually(is_known)  # by the questions about the time alone
        assert ages_are_right()
        server.process.send_signal(jump)
        offset += 3600 if jump is FORWARD else -3600
        eventually(lambda: abs(published_offset(server) - offset) < 60)  # noqa: B023
        browser.publish("after")  # perhaps before the page has asked for the time
        eventually(ages_are_right)
        for lane in browser.figures.values():
            assert lane["latency-p95"] is None or lane["latency-p95"] < 60_000
            assert lane["lost"] == 0
    browser.visit(server)  # a page that has not seen the clock being set
    eventually(ages_are_right)
    assert server.stop() == 0


def published_offset(server: Server) -> float:
    """By how many seconds the time of a new reading differs from ours."""
    server.publish({"line": "just now"})
    return float(server.http.get("/data").json["changed_at"]) - time.time()


@pytest.mark.parametrize(
    ("program", "how", "screen"),
    [("serve.py", signal.SIGKILL, DESK), ("serve2.py", signal.SIGTERM, PHONE)],
)
def test_the_server_dies_and_comes_back(
    start: Start, browser: Browser, axe: str, program: str, how: signal.Signals, screen: Any
) -> None:
    server = Server(program, "--source", "http")
    browser.visit(server)
    browser.execute_script("window.sameDocument = true")
    browser.publish("before")
    eventually(lambda: all(browser.each("bytes-per-update").values()))
    before = browser.figures
    server.process.send_signal(how)
    server.wait()
    for part in browser.parts:
        part.until(lambda part: "retrying in" in part["state"])
        assert part["value"] == "before"
    browser.look(motion=True)  # to see time go by
    then, _ = ages(browser)
    eventually(lambda: all(b >= a + 1 for a, b in zip(then, ages(browser)[0], strict=True)))
    browser.look_as_before()
    browser.control("change").click()
    browser.until_notice("The instruments are not connected just now.")
    check_looks(browser, axe, f"server gone, {program}", (screen, "dark"))

    browser.server = start(program, "--source", "http", port=server.port)
    browser.publish("after")
    assert {part["sequence"] for part in browser.parts} == {"1"}
    assert browser.execute_script("return window.sameDocument") is True

    def goes_on() -> bool:
        """Whether the sums continue, though the server began at zero."""
        return all(
            lane[name] > before[transport][name]
            for transport, lane in browser.figures.items()
            for name in ("requests", "bytes-down", "bytes-up", "seen", "messages")
        )

    eventually(goes_on)
    assert browser.lost == 0


def test_what_happened_while_away_is_caught_up(tab: Browser) -> None:
    """A stopped lane keeps its reading; started, it catches up."""
    tab.publish("seen")
    for lane in tab.lanes:
        lane.press("stop")
        assert lane.state == "stopped"
    tab.publish("missed", "[data-truth]")
    tab.publish("newest", "[data-truth]")
    for lane in tab.lanes:
        assert (lane.state, lane["value"]) == ("stopped", "seen")
        lane.press("stop")
    tab.until_live(text="newest")
    for transport, figures in tab.figures.items():
        sums = [figures[name] for name in ("seen", "coalesced", "lost")]
        assert sums == [2, 1, 0], transport


#: Responses with status 200 that an update costs: by signal, and by carry.
RESPONSES = {"poll": (2, 1), "longpoll": (2, 1), "sse": (1, 0), "websocket": (1, 0)}


def test_carry_saves_the_fetch(tab: Browser) -> None:
    browser = tab
    assert all(lane.carries for lane in browser.lanes), "all begin alike"

    def responses() -> Counter[str]:
        return Counter(it.transport for it in browser.requests if it.status == 200)

    def costs(before: Counter[str], cost: dict[str, int]) -> tuple[Counter[str], Counter[str]]:
        return responses() - before, Counter(cost)

    for carry in (False, True):
        for lane in browser.lanes:
            lane.set_carry(carry)
        before = responses()
        browser.publish(f"carry {carry}")
        cost = {transport: counts[carry] for transport, counts in RESPONSES.items()}
        until_same(partial(costs, before, cost))
    assert browser.complaints() == []


def test_times_are_in_the_readers_time_zone(page_server: Server, browser: Browser) -> None:
    page_server.publish({"time": "2026-01-15T12:00:00+00:00"})
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
    try:
        browser.visit(page_server)
        for part in browser.parts:
            part.until(lambda part: re.search(r"\b(21|9):00:00", part["value"]))
        changed_at = browser.execute_script(
            "return Date.parse(document.querySelector('[data-field=changed-at]').dateTime)"
        )
        newest = page_server.http.get("/data").json
        assert changed_at == pytest.approx(1000 * newest["changed_at"], abs=1)
        assert "Asia/Tokyo" in browser.find("[data-field=times]").text
    finally:
        browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


#: What the server and the script both show of a value.
SHOWN: list[tuple[dict[str, Any], str]] = [
    ({}, "nothing yet"),
    ({"line": "two"}, "two"),
    ({"line": ""}, ""),
    ({"line": 5}, '{"line": 5}'),
    ({"cpu_percent": 12.5, "memory_percent": 41.3, "load_average": [0.42]}, "CPU 12.5 %"),
    ({"cpu_percent": 7}, "CPU 7.0 %"),
    ({"cpu_percent": "high"}, '{"cpu_percent": "high"}'),
    ({"ok": True, "unit": "°C", "list": [1, "x"]}, '{"ok": true, "unit": "°C", "list": [1, "x"]}'),
    ({"tag": "<b>&amp;</b>", "quote": '"'}, '{"tag": "<b>&amp;</b>", "quote": "\\""}'),
    ({"time": "not a time"}, "not a time"),
]


def test_the_end_of_the_source_is_shown(browser: Browser, start: Start, axe: str) -> None:
    server = start("serve.py", "--source", "stdin", stdin=subprocess.PIPE)
    pipe = server.process.stdin
    assert pipe is not None
    browser.visit(server)
    assert browser.truth["source"] == ""
    pipe.write("the last line\n")
    pipe.close()
    browser.until_live(text="the last line")
    sentence = "The source stdin has ended: the data does not change any more."
    browser.truth.until(lambda truth: truth["source"] == sentence)
    check_looks(browser, axe, "the source has ended", (DESK, "light"), (PHONE, "dark"))


def test_each_kind_of_value_is_shown(tab: Browser) -> None:
    Select(tab.lane("poll").find("[data-action=period]")).select_by_value("250")
    for value, text in SHOWN:
        assert headline(value) == text
        tab.until_live(cursor=tab.server.publish(value), text=text)


def test_without_javascript(page_server: Server, tmp_path: Path) -> None:
    page_server.publish({"line": "no script needed"})
    with browsing(tmp_path, javascript=False) as browser:
        browser.get(page_server.url)

        def shows(text: str) -> bool:
            """Check the page; return whether it shows this; it may be reloading."""
            # ChromeDriver has several words for an element of the page before a reload.
            with suppress(WebDriverException):
                values = {part["value"] for part in browser.parts}
                assert "reload" in browser.find("body").text
                shown = browser.find_all("button, select, [data-needs-script]")
                assert not [element.text for element in shown if element.is_displayed()]
                return values == {text}
            return False

        eventually(lambda: shows("no script needed"))
        browser.picture("without JavaScript")
        page_server.publish({"line": "it came by reloading"})
        eventually(lambda: shows("it came by reloading"))


#: A page that sends a request of each kind.
REQUESTS = b"""
<script type=module>
const cache = "no-store", method = "HEAD", headers = { "If-None-Match": '"x-1"' };
await fetch("/data", { cache });
await fetch("/known", { method, cache, headers });
new EventSource("/events");
new WebSocket(`ws://${location.host}/websocket`);
</script>
"""


def test_the_measured_requests_are_those_of_chromium(chromium: Browser) -> None:
    """bench.clients sends what this browser sends, header by header."""
    received: dict[str, list[str]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            received[path] = list(self.headers)
            body = REQUESTS if path == "/" else b"{}"
            self.send_response(200)
            for name, value in [("Content-Type", "text/html"), ("Cache-Control", "no-cache"),
                                ("ETag", '"x-1"'), ("Content-Length", str(len(body)))]:  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chromium.get(f"http://127.0.0.1:{server.server_port}/")
        eventually(lambda: {"/websocket", "/events"} <= received.keys())
        received.pop("/")
        chromium.refresh()
        eventually(lambda: "/" in received)
        server.shutdown()
    chromium.get("about:blank")

    def names(template: str, **parts: str) -> list[str]:
        every = dict.fromkeys(("method", "path", "host", "agent", "etag", "key"), "")
        lines = template.format(**(every | parts)).split("\r\n")[1:]
        return [line.partition(":")[0] for line in lines if line]

    etag = 'If-None-Match: "x-1"\r\n'
    assert {path: received[path] for path in ("/", "/data", "/known", "/events", "/websocket")} == {
        "/": names(NAVIGATE, etag=etag),
        "/data": names(FETCH),
        "/known": names(FETCH, etag=etag),
        "/events": names(EVENT_SOURCE),
        "/websocket": names(HANDSHAKE),
    }
