"""The page as a lab: its figures, and its controls."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.browsing import FIGURES, LANES, Browser, notice, until_same
from tests.clients import LabPage
from tests.conftest import Server, Start, eventually, starting
from tests.relay import Relay

LabOf = Callable[[Server], LabPage]

OWN_PACE = "every 3600 s"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose data the tests publish."""
    with starting() as start:
        yield start("serve.py", "--source", "http")


@pytest.fixture(scope="module")
def _clockwork() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "clock", "--every", "3600")


@pytest.fixture
def clockwork(_clockwork: Server, lab_of: LabOf) -> Iterator[Server]:
    """A server whose data changes when the page says so."""
    yield _clockwork
    lab_of(_clockwork).do("pace", pace=OWN_PACE)


def sums(figures: dict[str, Any]) -> int:
    return int(figures["seen"] + figures["coalesced"])


# The figures.


@pytest.mark.parametrize("payload", ["as at first", "the other one"])
def test_every_figure_is_what_was_counted(
    server: Server, browser: Browser, lab_of: LabOf, payload: str
) -> None:
    browser.visit(server)
    if payload == "the other one":
        for lane in map(browser.lane, LANES):
            lane.set_carry(not lane.carries)
    lab, begin = lab_of(server), browser.figures
    for number in range(3):
        server.publish({"line": f"one by one {number}"})
        for part in browser.parts:
            part.until_it_shows(f"one by one {number}")
    for number in range(20):
        server.publish({"line": f"all at once {number}"})
    for part in browser.parts:
        part.until_it_shows("all at once 19")

    until_same(
        lambda: (shown(browser, "bytes-up", "bytes-down"), counted_by_the_server(lab, browser))
    )
    until_same(lambda: (shown(browser, "messages"), counted_by_the_browser(browser)))
    for transport, now in browser.figures.items():
        assert now["sequence"] - begin[transport]["sequence"] == 23
        assert (sums(now), now["lost"]) == (23, 0), transport
        assert 4 <= now["seen"] <= 23
        assert now["messages"] > 0
        assert 0 < now["latency-p50"] <= now["latency-p95"]
        assert now["bytes-per-update"] == (now["bytes-down"] + now["bytes-up"]) / now["seen"]
        assert now["requests-per-update"] == now["requests"] / now["seen"]
        if transport == "websocket":
            assert now["messages"] >= now["seen"]
    assert browser.complaints() == []


Counts = dict[str, dict[str, int]]


def shown(browser: Browser, *others: str) -> Counts:
    """The requests that each lane shows, by kind, and more of its fields."""
    return {
        transport: {
            "requests": figures["requests"],
            "answered": figures["requests"] - figures["empty"],
            "empty": figures["empty"],
            **{name: figures[name] for name in others},
        }
        for transport, figures in browser.figures.items()
    }


def counted_by_the_server(lab: LabPage, browser: Browser) -> Counts:
    """The same by the server's meters and its reports of each exchange."""
    counts = {}
    for transport, lane in browser.lane_ids.items():
        sums = lab.sums(lane)
        empty = [exchange[2] in (204, 304) for exchange in lab.exchanges[lane]]
        counts[transport] = {
            "requests": sums["requests"],
            "answered": empty.count(False),
            "empty": empty.count(True),
            "bytes-up": sums["up"],
            "bytes-down": sums["down"],
        }
    return counts


def counted_by_the_browser(browser: Browser) -> Counts:
    """The same by the browser's own network log."""
    names = ("requests", "answered", "empty", "messages")
    counts = {transport: dict.fromkeys(names, 0) for transport in LANES}
    ids = browser.lane_ids
    for request in browser.requests:
        if request.status and request.lane == ids[request.transport]:
            count = counts[request.transport]
            count["requests"] += 1
            count["empty" if request.status in (204, 304) else "answered"] += 1
            count["messages"] += request.messages
    return counts


def test_another_payload_begins_another_measurement(server: Server, browser: Browser) -> None:
    browser.visit(server)
    server.publish({"line": "measured"})
    for part in browser.parts:
        part.until_it_shows("measured")
    eventually(lambda: all(lane["bytes-per-update"] for lane in browser.figures.values()))
    ids = browser.lane_ids
    for transport in LANES:
        lane = browser.lane(transport)
        carried, button = lane.carries, lane.find("[data-action=carry]")
        # In one step: before the server's next report.
        figures = browser.execute_script(f"arguments[0].click(); {FIGURES}", button)
        for name in ("messages", "seen", "coalesced", "lost"):
            assert figures[transport][name] == 0, name
        for name in ("requests", "empty", "bytes-down", "bytes-up"):
            assert figures[transport][name] in (None, "–"), "the server has not counted any yet"
        for name in ("latency-p50", "latency-p95", "latency-last", "bytes-per-update"):
            assert figures[transport][name] is None, name
        lane.until(lambda lane: lane.state == "live")
        assert lane.carries is not carried
        assert (lane["value"], lane["seen"]) == ("measured", "0"), "what is shown is no update"
        ids[transport] += "-2"
        eventually(lambda: browser.lane_ids == ids)
    server.publish({"line": "measured anew"})
    for part in browser.parts:
        part.until_it_shows("measured anew")
    for figures in browser.figures.values():
        assert (figures["seen"], figures["coalesced"], figures["lost"]) == (1, 0, 0)


def test_the_period_of_short_polling(server: Server, browser: Browser) -> None:
    browser.visit(server)
    choice = Select(browser.lane("poll").find("[data-action=period]"))
    assert choice.first_selected_option.get_attribute("value") == "500"

    def shortest_wait(lane: str) -> float:
        """Seconds from one request of this lane to the next, at least."""

        def sent() -> list[float]:
            return [request.sent_at for request in browser.requests if request.lane == lane]

        eventually(lambda: len(sent()) > 2)
        return min(later - sooner for sooner, later in pairwise(sent()))

    begun = browser.lane_ids["poll"]
    choice.select_by_value("250")
    quickly = shortest_wait(f"{begun}-2")
    choice.select_by_value("1000")
    slowly = shortest_wait(f"{begun}-3")
    assert 0.2 < quickly < 0.9 < slowly


# Cut, and lost.

#: Let the page think that some milliseconds have passed.
JUMP = """
const [milliseconds] = arguments;
for (const clock of [Date, performance]) {
  const now = clock.now.bind(clock);
  clock.now = () => now() + milliseconds;
}
"""


@pytest.mark.parametrize("cut", [("poll", "sse"), ("longpoll", "websocket")], ids=" ".join)
def test_lanes_that_are_cut_come_back(server: Server, browser: Browser, cut: list[str]) -> None:
    browser.visit(server)
    server.publish({"line": "before"})
    for part in browser.parts:
        part.until_it_shows("before")
    browser.watch_states()
    for lane in map(browser.lane, cut):
        lane.press("cut")
    retrying = [[transport, "retrying"] for transport in cut]
    eventually(lambda: all(each in browser.states for each in retrying))  # it does not last
    server.publish({"line": "during the cut"})
    for other in set(LANES) - set(cut):
        browser.lane(other).until_it_shows("during the cut")
    browser.execute_script(JUMP, 6000)  # late, but it was not connected
    browser.picture(f"cut, {' and '.join(cut)}")
    for lane in map(browser.lane, cut):
        lane.until_it_shows("during the cut")
    assert {transport for transport, _ in browser.states} == set(cut), "others were cut, too"
    for figures in browser.figures.values():
        assert (figures["seen"], figures["coalesced"], figures["lost"]) == (2, 0, 0)


def test_a_reading_that_does_not_come_is_lost(server: Server, browser: Browser) -> None:
    """A stalled connection looks alive: until it is checked, its readings are lost."""
    with Relay(server.port) as relay:
        browser.visit(server, port=relay.port)
        server.publish({"line": "before"})
        for part in browser.parts:
            part.until_it_shows("before")
        [line] = [each for each in relay.naming("Upgrade: websocket") if b" /update?" in each.head]
        line.stall()
        published = time.monotonic()
        server.publish({"line": "on a dead line"})
        lane = browser.lane("websocket")
        for part in browser.parts:
            if part.selector != lane.selector:
                part.until_it_shows("on a dead line")
        lane.until(lambda lane: lane["lost"] != "0")
        assert time.monotonic() - published > 5, "it might still have come"
        time.sleep(0.5)  # several ticks, each of which could count it again
        assert (lane["value"], lane["lost"], lane.state) == ("before", "1", "live")
        line.resume()
        lane.until_it_shows("on a dead line")
        lost = {transport: figures["lost"] for transport, figures in browser.figures.items()}
        assert lost == dict.fromkeys(LANES, 0) | {"websocket": 1}


# The controls.


def all_show(browser: Browser, sequence: int) -> None:
    """Wait until everything shows the reading of this number, and no later one."""
    for part in browser.parts:
        part.until(lambda part: part["sequence"] == str(sequence))


def test_change_it_now(clockwork: Server, browser: Browser) -> None:
    browser.visit(clockwork)
    sequence = int(browser.truth["sequence"])
    for number in (1, 2):
        browser.control("change").click()
        all_show(browser, sequence + number)


def test_a_burst(clockwork: Server, browser: Browser) -> None:
    browser.visit(clockwork)
    sequence = int(browser.truth["sequence"])
    browser.control("burst").click()
    all_show(browser, sequence + 50)
    browser.picture("burst")
    figures = browser.figures
    assert {transport: sums(lane) for transport, lane in figures.items()} == dict.fromkeys(
        LANES, 50
    )
    assert figures["poll"]["coalesced"] > 0
    assert figures["longpoll"]["coalesced"] > 0, "it asks again meanwhile"
    assert figures["websocket"]["seen"] <= figures["websocket"]["messages"] <= 50
    assert figures["poll"]["messages"] < figures["websocket"]["messages"]
    assert [lane["lost"] for lane in figures.values()] == [0] * len(LANES)


def pressed(browser: Browser) -> list[str]:
    """The paces whose buttons are shown as pressed."""
    buttons = browser.find_elements(By.CSS_SELECTOR, ".segments [aria-pressed=true]")
    return [button.text for button in buttons]


def test_the_pace(clockwork: Server, browser: Browser, lab_of: LabOf) -> None:
    browser.visit(clockwork)
    another_page = lab_of(clockwork)
    assert pressed(browser) == [OWN_PACE]

    def until_paced(name: str) -> None:
        eventually(lambda: pressed(browser) == [name])

    def seconds_of(changes: int) -> float:
        first, begun = int(browser.truth["sequence"]), time.monotonic()
        browser.truth.until_it_is_past(first + changes - 1)
        return time.monotonic() - begun

    browser.control("pace", "4 per s").click()
    until_paced("4 per s")
    while another_page.wait_for("pace") != "4 per s":
        pass
    assert seconds_of(4) > 0.7
    browser.control("pace", "1 per s").click()
    until_paced("1 per s")
    assert seconds_of(2) > 0.9
    browser.control("pace", "irregular").click()
    until_paced("irregular")
    browser.control("pause").click()
    until_paced("paused")
    sequence = browser.truth["sequence"]
    all_show(browser, int(sequence))
    time.sleep(0.6)  # in which there would have been a change, often enough
    assert browser.truth["sequence"] == sequence
    browser.control("change").click()
    all_show(browser, int(sequence) + 1)
    browser.control("pause").click()
    until_paced("irregular")
    browser.control("pace", OWN_PACE).click()
    until_paced(OWN_PACE)


def test_a_frozen_server_loses_nothing(clockwork: Server, browser: Browser) -> None:
    browser.visit(clockwork)
    browser.control("pace", "4 per s").click()
    eventually(lambda: pressed(browser) == ["4 per s"])
    browser.watch_states()
    browser.control("freeze").click()
    eventually(lambda: notice(browser))
    assert notice(browser) == "The server is frozen for 5 seconds. Nothing moves, nothing is lost."
    # Readings that it had sent before have arrived by now.
    sequence = int(browser.truth["sequence"]) + 1
    begun = time.monotonic()
    browser.truth.until_it_is_past(sequence)
    assert time.monotonic() - begun > 3, "it was not frozen"
    for part in browser.parts:
        part.until_it_is_past(sequence)
    states = {state for _, state in browser.states}
    assert states <= {"stale", "live"}, "a lane has given up"
    assert [figures["lost"] for figures in browser.figures.values()] == [0] * len(LANES)


def test_the_page_says_why_controls_are_disabled(start: Start, browser: Browser) -> None:
    browser.visit(start("serve.py", "--no-controls", "--every", "0.5"))
    why = browser.find("[data-field=rights]")
    eventually(lambda: why.is_displayed())
    assert "--controls" in why.text
    buttons = browser.find_elements(By.CSS_SELECTOR, "[data-control]")
    assert len(buttons) == 8
    assert not any(button.is_enabled() for button in buttons)
    browser.picture("no controls")
    # A page that tries all the same gets an error, in words.
    browser.execute_script(
        "arguments[0].disabled = false; arguments[0].click()", browser.control("burst")
    )
    eventually(lambda: notice(browser))
    assert notice(browser) == (
        "That was refused: only a browser on the server's own machine may use this; see --controls."
    )
    assert browser.lane("poll").find("[data-action=cut]").is_enabled(), "it is this page's own lane"


def test_a_source_with_a_pace_of_its_own(server: Server, browser: Browser) -> None:
    server.publish({"line": "published"})
    browser.visit(server)
    assert not browser.find("[data-field=rights]").is_displayed()
    shown = [
        button.get_attribute("data-control")
        for button in browser.find_elements(By.CSS_SELECTOR, "[data-control]")
        if button.is_displayed()
    ]
    assert shown == ["change", "burst", "freeze"]
    sequence = int(browser.truth["sequence"])
    browser.control("change").click()
    all_show(browser, sequence + 1)
    browser.control("burst").click()
    all_show(browser, sequence + 51)
    assert {part["value"] for part in browser.parts} == {"published"}
