"""The page in a real Chromium, also when its server stops."""

import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from bench.clients.chromium import EVENT_SOURCE, FETCH, HANDSHAKE, NAVIGATE
from lab.summary import headline
from tests.browsing import LANES, RUNNING, Browser, browsing
from tests.conftest import Server, Start, eventually, starting


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http")


def test_at_first_all_run_but_the_event_stream(server: Server, browser: Browser) -> None:
    browser.open(server.url)
    for transport in RUNNING:
        browser.lane(transport).until(lambda part: part.state == "live")
    stopped = browser.lane("sse")
    assert stopped.state == "stopped"
    assert stopped.find("[data-action=stop]").text == "Start"
    assert stopped.find("[data-action=stop]").accessible_name == "Start Server-sent events"
    assert not stopped.find("[data-action=cut]").is_enabled()
    assert set(browser.lane_ids) == set(RUNNING)
    figures = browser.figures["sse"]
    counts = ("requests", "empty", "messages", "seen", "coalesced", "lost")
    assert [figures[name] for name in counts] == [0] * len(counts)
    assert figures["latency-p50"] is figures["bytes-per-update"] is None
    stopped.press("stop")
    stopped.until(lambda part: part.state == "live")
    assert stopped.find("[data-action=stop]").text == "Stop"
    assert stopped.find("[data-action=cut]").is_enabled()
    assert set(browser.lane_ids) == set(LANES)


def test_all_lanes_follow_the_server(start: Start, program: str, browser: Browser) -> None:
    server = start(program, "--source", "http")
    browser.visit(server)
    assert all(browser.lane(transport).carries for transport in LANES), "all begin alike"
    for carry in (False, True):
        for transport in LANES:
            browser.lane(transport).set_carry(carry)
        for number in range(2):
            server.publish({"line": f"reading {number}, {carry}"})
            for part in browser.parts:
                part.until_it_shows(f"reading {number}, {carry}")
                assert part.shows(server)
    assert browser.complaints() == []


def test_time_since_update_ticks(server: Server, browser: Browser) -> None:
    browser.look(motion=True)  # by tenths
    browser.visit(server)
    server.publish({"line": "tick"})
    for part in browser.parts:
        part.until_it_shows("tick")
    started = {part.selector: (part.since, time.monotonic()) for part in browser.parts}
    for part in browser.parts:
        part.until(lambda part: part.since >= started[part.selector][0] + 1.5)
        since, at = started[part.selector]
        before = time.monotonic()
        assert before - at - 1 < part.since - since < time.monotonic() - at + 1
    published = time.monotonic()
    server.publish({"line": "tock"})
    for part in browser.parts:
        part.until_it_shows("tock")
        assert part.since < time.monotonic() - published + 1


def test_the_machines_load_is_shown(start: Start, browser: Browser) -> None:
    browser.visit(start("serve.py", "--every", "0.3"))
    first = int(browser.truth["sequence"])
    for part in browser.parts:
        assert re.fullmatch(r"CPU \d+\.\d %", part["value"])
        part.until_it_is_past(first + 3)
    assert re.match(r"memory \d+ % · load average", browser.truth["details"])


def test_printf_shows_its_last_line(start: Start, browser: Browser) -> None:
    """`printf 'one\\ntwo\\n' | python serve.py --source stdin`"""
    with subprocess.Popen(["printf", r"one\ntwo\n"], stdout=subprocess.PIPE) as printf:
        assert printf.stdout is not None
        server = start("serve.py", "--source", "stdin", stdin=printf.stdout.fileno())
    browser.visit(server)
    for part in browser.parts:
        part.until_it_shows("two")


@pytest.mark.parametrize(
    ("program", "how"), [("serve.py", signal.SIGKILL), ("serve2.py", signal.SIGTERM)]
)
def test_the_server_dies_and_comes_back(
    start: Start, browser: Browser, program: str, how: signal.Signals
) -> None:
    server = Server(program, "--source", "http")
    browser.look(motion=True)  # to see time go by
    browser.visit(server)
    browser.execute_script("window.sameDocument = true")
    server.publish({"line": "before"})
    for part in browser.parts:
        part.until_it_shows("before")
    before = eventually(lambda: all_counted(browser))
    server.process.send_signal(how)
    server.wait()
    for part in browser.parts:
        part.until(lambda part: part.state in ("retrying", "connecting"))
        part.until(lambda part: "retrying in" in part["state"])
        assert part["value"] == "before"
    browser.picture(f"server gone, {program}")
    ages = [part.since for part in browser.parts]
    time.sleep(1.1)  # what is to be seen is that time goes by
    assert all(part.since >= age + 1 for part, age in zip(browser.parts, ages, strict=True))

    again = start(program, "--source", "http", port=server.port)
    again.publish({"line": "after"})
    for part in browser.parts:
        part.until_it_shows("after")
        assert part["sequence"] == "1"
    assert browser.execute_script("return window.sameDocument") is True
    eventually(lambda: goes_on(browser, before))
    assert [figures["lost"] for figures in browser.figures.values()] == [0] * len(LANES)


def all_counted(browser: Browser) -> dict[str, dict[str, Any]] | None:
    """The figures, once the server has reported what the first update cost each lane."""
    figures = browser.figures
    return figures if all(lane["bytes-per-update"] for lane in figures.values()) else None


def goes_on(browser: Browser, before: dict[str, dict[str, Any]]) -> bool:
    """Whether the sums continue, though the server began at zero."""
    return all(
        lane[name] > before[transport][name]
        for transport, lane in browser.figures.items()
        for name in ("requests", "bytes-down", "bytes-up", "seen", "messages")
    )


def test_what_happened_while_away_is_caught_up(server: Server, browser: Browser) -> None:
    """A stopped lane keeps its reading; started again it shows the newest."""
    browser.visit(server)
    server.publish({"line": "seen"})
    lanes = [browser.lane(transport) for transport in LANES]
    for lane in lanes:
        lane.until_it_shows("seen")
        lane.press("stop")
        assert lane.state == "stopped"
    server.publish({"line": "missed"})
    server.publish({"line": "newest"})
    eventually(lambda: browser.truth["value"] == "newest")
    for lane in lanes:
        assert (lane.state, lane["value"]) == ("stopped", "seen")
        lane.press("stop")
    for lane in lanes:
        lane.until_it_shows("newest")
    for transport, figures in browser.figures.items():
        sums = [figures[name] for name in ("seen", "coalesced", "lost")]
        assert sums == [2, 1, 0], transport


#: Responses with status 200 that an update costs: by signal, and by carry.
RESPONSES = {"poll": (2, 1), "longpoll": (2, 1), "sse": (1, 0), "websocket": (1, 0)}


def test_carry_saves_the_fetch(server: Server, browser: Browser) -> None:
    browser.visit(server)
    lanes = [browser.lane(transport) for transport in LANES]

    def responses_to(line: str) -> dict[str, int]:
        for lane in lanes:
            lane.until(lambda lane: lane.shows(server))
        before = responses()
        server.publish({"line": line})
        for lane in lanes:
            lane.until_it_shows(line)
        now = responses()
        return {transport: now[transport] - before[transport] for transport in LANES}

    def responses() -> Counter[str]:
        return Counter(it.transport for it in browser.requests if it.status == 200)

    for number, (carry, line) in enumerate([(False, "by signal"), (True, "by carry")]):
        for lane in lanes:
            lane.set_carry(carry)
        expected = {transport: responses[number] for transport, responses in RESPONSES.items()}
        assert responses_to(line) == expected, line


def test_times_are_in_the_readers_time_zone(server: Server, browser: Browser) -> None:
    server.publish({"time": "2026-01-15T12:00:00+00:00"})
    browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
    try:
        browser.visit(server)
        for part in browser.parts:
            part.until(lambda part: re.search(r"\b(21|9):00:00", part["value"]))
        changed = browser.truth.find("[data-field=changed-at]").get_attribute("datetime")
        moment = datetime.fromisoformat(changed.replace("Z", "+00:00"))
        assert abs(moment.timestamp() - time.time()) < 60
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


def test_each_kind_of_value_is_shown(server: Server, browser: Browser) -> None:
    browser.visit(server)
    Select(browser.lane("poll").find("[data-action=period]")).select_by_value("250")
    for value, text in SHOWN:
        assert headline(value) == text
        server.publish(value)
        eventually(lambda: all(part.shows(server) for part in browser.parts))
        shown = browser.execute_script(
            "return [...document.querySelectorAll('[data-field=value]')].map((p) => p.textContent)"
        )
        assert [each.strip() for each in shown] == [text] * len(browser.parts)


def test_without_javascript(server: Server, tmp_path: Path) -> None:
    server.publish({"line": "no script needed"})
    with browsing(tmp_path, javascript=False) as browser:
        browser.get(server.url)
        for part in browser.parts:
            assert part["value"] == "no script needed"
        assert "reload" in browser.find_element(By.TAG_NAME, "body").text
        shown = browser.find_elements(By.CSS_SELECTOR, "button, select, [data-needs-script]")
        assert not [element.text for element in shown if element.is_displayed()]
        browser.picture("without JavaScript")
        server.publish({"line": "it came by reloading"})
        eventually(lambda: reloaded(browser) == "it came by reloading")


def reloaded(browser: Browser) -> str:
    try:
        return browser.truth["value"]
    except (NoSuchElementException, StaleElementReferenceException):  # in mid-reload
        return ""


def test_the_measured_requests_are_those_of_chromium(chromium: Browser) -> None:
    """bench.clients sends what this browser sends, header by header."""
    heard: dict[str, list[str]] = {}
    script = (
        "<script type=module>const cache = 'no-store', method = 'HEAD';"
        "await fetch('/data', {cache});"
        "const headers = {'If-None-Match': '\"x-1\"'};"
        "await fetch('/known', {method, cache, headers});"
        "new EventSource('/events');"
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
                body = script if path == "/" else "" if line.startswith("HEAD") else "{}"
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

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        chromium.get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        eventually(lambda: {"websocket", "/events"} <= heard.keys())
        heard.pop("/")
        chromium.refresh()
        eventually(lambda: "/" in heard)
        listener.shutdown(socket.SHUT_RDWR)
    chromium.get("about:blank")

    def names(template: str, **parts: str) -> list[str]:
        every = dict.fromkeys(("method", "path", "host", "agent", "etag", "key"), "")
        filled = template.format(**(every | parts))
        return [line.partition(":")[0] for line in filled.split("\r\n")[1:]]

    etag = 'If-None-Match: "x-1"\r\n'
    assert heard["/"] == names(NAVIGATE, etag=etag)
    assert heard["/data"] == names(FETCH)
    assert heard["/known"] == names(FETCH, etag=etag)
    assert heard["/events"] == names(EVENT_SOURCE)
    assert heard["websocket"] == names(HANDSHAKE)
