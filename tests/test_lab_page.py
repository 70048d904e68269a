"""The instruments on the page: its figures and its controls."""

import re
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from selenium.webdriver.support.select import Select

from tests.browsing import (
    FIGURES,
    LANES,
    PHONE,
    WATCH_STATES,
    Browser,
    Part,
    check_looks,
)  # fmt: skip
from tests.clients import LabPage
from tests.conftest import Server, Start, eventually, starting, until_same
from tests.relay import Relay

LabOf = Callable[[Server], LabPage]

OWN_PACE = "every 3600 s"


# The figures.


def test_every_figure_is_what_was_counted(tab: Browser, lab_of: LabOf) -> None:
    """Also after a switch of the payload: another measurement."""
    lab = lab_of(tab.server)
    measure(tab, lab)
    for lane in tab.lanes:
        begin_anew(tab, lane)
    measure(tab, lab)
    assert tab.complaints() == []


def measure(tab: Browser, lab: LabPage) -> None:
    """Publish 23 readings, and check the figures of each lane."""
    begin = tab.each("sequence")
    for number in range(3):
        tab.publish(f"one by one {number}")
    for number in range(19):
        tab.server.publish({"line": f"all at once {number}"})
    tab.publish("the last")
    until_same(lambda: (shown(tab, "bytes-up", "bytes-down"), counted_by_the_server(lab, tab)))
    until_same(lambda: (shown(tab, "messages"), counted_by_the_browser(tab)))
    for transport, now in tab.figures.items():
        assert now["sequence"] - begin[transport] == 23
        assert (sums(now), now["lost"]) == (23, 0), transport
        assert 4 <= now["seen"] <= 23
        assert now["messages"] > 0
        assert 0 < now["latency-p50"] <= now["latency-p95"]
        assert now["bytes-per-update"] == (now["bytes-down"] + now["bytes-up"]) / now["seen"]
        assert now["requests-per-update"] == now["requests"] / now["seen"]
        if transport == "websocket":
            assert now["messages"] >= now["seen"]


def begin_anew(tab: Browser, lane: Part) -> None:
    """Switch a lane's payload; check that its figures are zero."""
    ids, carried, button = tab.lane_ids, lane.carries, lane.find("[data-action=carry]")
    [transport] = [name for name in LANES if tab.lane(name).selector == lane.selector]
    # In one step: before the server's next report.
    figures = tab.execute_script(f"arguments[0].click(); {FIGURES}", button)[transport]
    for name in ("messages", "seen", "coalesced", "lost"):
        assert figures[name] == 0, name
    for name in ("requests", "empty", "bytes-down", "bytes-up"):
        assert figures[name] in (None, "–"), "the server has not counted any yet"
    for name in ("latency-p50", "latency-p95", "latency-last", "bytes-per-update"):
        assert figures[name] is None, name
    tab.until_live(lane.selector, text="the last")
    assert lane.carries is not carried
    assert lane["seen"] == "0", "what is shown is no update"
    ids[transport] += "-2"
    until_same(lambda: (tab.lane_ids, ids))


def sums(figures: dict[str, Any]) -> int:
    return int(figures["seen"] + figures["coalesced"])


Counts = dict[str, dict[str, int]]


def shown(browser: Browser, *others: str) -> Counts:
    """Each lane's requests as shown, by kind, and other fields."""
    return {
        transport: {
            "requests": figures["requests"],
            "full": figures["requests"] - figures["empty"],
            "empty": figures["empty"],
            **{name: figures[name] for name in others},
        }
        for transport, figures in browser.figures.items()
    }


def counted_by_the_server(lab: LabPage, browser: Browser) -> Counts:
    """The same by the server's meters and reports."""
    counts = {}
    for transport, lane in browser.lane_ids.items():
        sums = lab.sums(lane)
        empty = [exchange[2] in (204, 304) for exchange in lab.exchanges[lane]]
        counts[transport] = {
            "requests": sums["requests"],
            "full": empty.count(False),
            "empty": empty.count(True),
            "bytes-up": sums["up"],
            "bytes-down": sums["down"],
        }
    return counts


def counted_by_the_browser(browser: Browser) -> Counts:
    """The same by the browser's own network log."""
    names = ("requests", "full", "empty", "messages")
    counts = {transport: dict.fromkeys(names, 0) for transport in LANES}
    ids = browser.lane_ids
    for request in browser.requests:
        if request.status and request.lane == ids[request.transport]:
            count = counts[request.transport]
            count["requests"] += 1
            count["empty" if request.status in (204, 304) else "full"] += 1
            count["messages"] += request.messages
    return counts


def test_the_period_of_short_polling(tab: Browser) -> None:
    choice = Select(tab.lane("poll").find("[data-action=period]"))
    assert choice.first_selected_option.get_attribute("value") == "500"
    begun = tab.lane_ids["poll"]

    def gaps(lane: str) -> list[float]:
        """The seconds between requests."""
        sent = [request.sent_at for request in tab.requests if request.lane == lane]
        return [b - a for a, b in pairwise(sent)]

    def mean_gap(number: int) -> float:
        found = gaps(f"{begun}-{number}")
        return sum(found) / len(found) if len(found) > 1 else 0.0

    # One gap may be shorter or longer on a busy machine, but they add up.
    choice.select_by_value("250")
    eventually(lambda: mean_gap(2) > 0.24 and min(gaps(f"{begun}-2")) < 0.45)
    choice.select_by_value("1000")
    eventually(lambda: mean_gap(3) > 0.95)


# Cut, and lost.

#: From now on, lanes wait for minutes before they connect again.
WAIT = "window.random = Math.random; Math.random = () => 1000"
#: Let them wait no longer: the network seems to come back.
RECONNECT = "Math.random = random; dispatchEvent(new Event('online'))"
#: Let the page think that six seconds have passed: longer than a lane may be late.
JUMP = """
for (const clock of [Date, performance]) {
  const now = clock.now.bind(clock);
  clock.now = () => now() + 6000;
}
"""


def test_lanes_that_are_cut_come_back(tab: Browser) -> None:
    tab.publish("before")
    tab.execute_script(WATCH_STATES)
    for number, cut in enumerate([("poll", "sse"), ("longpoll", "websocket")], 2):
        tab.execute_script(WAIT)
        for transport in cut:
            tab.lane(transport).press("cut")
        for transport in cut:
            tab.lane(transport).until(lambda lane: lane.state == "retrying")
        others = [f"[data-transport={name}]" for name in LANES if name not in cut]
        tab.publish(f"during cut {number}", ", ".join(["[data-truth]", *others]))
        tab.execute_script(JUMP)  # late, but it was not connected
        tab.picture(f"cut, {' and '.join(cut)}")
        assert {tab.lane(transport).state for transport in cut} == {"retrying"}
        tab.execute_script(RECONNECT)
        tab.until_live(text=f"during cut {number}")
        assert {transport for transport, _ in tab.states} == set(cut), "others were cut, too"
        tab.execute_script("states.length = 0")
        for figures in tab.figures.values():
            assert (figures["seen"], figures["coalesced"], figures["lost"]) == (number, 0, 0)


def test_a_reading_that_does_not_come_is_lost(page_server: Server, browser: Browser) -> None:
    """A stalled connection looks alive, but its readings are lost."""
    with Relay(page_server.port) as relay:
        browser.visit(page_server, port=relay.port)
        browser.publish("before")
        [socket] = [each for each in relay.naming("Upgrade: websocket") if b" /up" in each.head]
        socket.stall()
        published = time.monotonic()
        lane = browser.lane("websocket")
        browser.publish("stalled", "[data-truth], [data-transport]:not([data-transport=websocket])")
        lane.until(lambda lane: lane["lost"] != "0")
        assert time.monotonic() - published > 5, "it might still have come"
        for _ in range(3):  # ticks, each of which could count it again
            since = browser.truth["since"]
            browser.truth.until(lambda part, since=since: part["since"] != since)  # type: ignore[misc]
        assert (lane["value"], lane["lost"], lane.state) == ("before", "1", "live")
        socket.resume()
        browser.until_live(text="stalled")
        assert browser.each("lost") == dict.fromkeys(LANES, 0) | {"websocket": 1}


# The controls.


@pytest.fixture
def clockwork(browser: Browser) -> Iterator[Browser]:
    """The page, on a server that only the controls change."""
    with starting() as start:
        yield browser.visit(start("serve.py", "--source", "clock", "--every", "3600"))


def all_show(browser: Browser, sequence: int) -> None:
    """Wait until everything shows the reading of this number."""
    until_same(lambda: ({part["sequence"] for part in browser.parts}, {str(sequence)}))


def pressed(browser: Browser) -> list[str]:
    """The paces whose buttons are shown as pressed."""
    return [button.text for button in browser.find_all(".segments [aria-pressed=true]")]


#: Clicks twice before there is a report, and notes each pace that is shown as pressed from then on.
CLICK_TWICE = """
const [button] = arguments;
window.paces = [];
new MutationObserver(() => {
  const pressed = document.querySelector(".segments [aria-pressed=true]").textContent;
  if (paces.at(-1) !== pressed) paces.push(pressed);
}).observe(button.closest(".segments"), { subtree: true, attributeFilter: ["aria-pressed"] });
button.click();
button.click();
"""


def test_the_controls(clockwork: Browser, lab_of: LabOf) -> None:
    tab, another_page = clockwork, lab_of(clockwork.server)
    sequence = int(tab.truth["sequence"])
    for number in (1, 2):
        tab.control("change").click()
        all_show(tab, sequence + number)

    tab.control("burst").click()
    all_show(tab, sequence + 52)
    tab.picture("burst")
    figures = tab.figures
    assert {name: sums(lane) for name, lane in figures.items()} == dict.fromkeys(LANES, 52)
    assert figures["poll"]["coalesced"] > 0
    assert figures["websocket"]["seen"] <= figures["websocket"]["messages"] <= 52
    assert figures["poll"]["messages"] < figures["websocket"]["messages"]
    assert tab.lost == 0

    def until_paced(name: str) -> None:
        until_same(lambda: (pressed(tab), [name]))

    def newest() -> tuple[int, float]:
        """The newest reading's sequence and time in seconds."""
        reading = tab.server.http.get("/data").json
        return int(reading["cursor"].rpartition("-")[2]), reading["changed_at"]

    until_paced(OWN_PACE)
    for name, seconds in [("4 per s", 0.25), ("1 per s", 1.0)]:
        tab.control("pace", name).click()
        until_paced(name)
        while another_page.wait_for("pace") != name:
            pass
        first, begun = newest()
        tab.truth.until_it_is_past(first + 1)
        last, changed_at = newest()
        assert changed_at - begun > 0.95 * seconds * (last - first)
    tab.control("pace", "irregular").click()
    until_paced("irregular")
    tab.control("pause").click()
    until_paced("paused")
    sequence, _ = newest()
    all_show(tab, sequence)
    tab.control("change").click()
    all_show(tab, sequence + 1)
    tab.control("pause").click()
    until_paced("irregular")
    tab.execute_script(CLICK_TWICE, tab.control("pause"))
    until_same(lambda: (tab.execute_script("return paces"), ["paused", "irregular"]))
    tab.control("pace", OWN_PACE).click()
    until_paced(OWN_PACE)
    tab.control("pause").click()
    until_paced("paused")
    tab.visit(tab.server)  # a page that has not seen what was before
    until_paced("paused")
    tab.control("pause").click()
    until_paced(OWN_PACE)


def test_what_was_measured_at_another_pace_is_not_compared(clockwork: Browser) -> None:
    def until_it_says(words: str) -> None:
        eventually(lambda: words in clockwork.find("[data-field=verdict]").text)

    def set_pace(name: str) -> None:
        clockwork.control("pace", name).click()
        until_same(lambda: (pressed(clockwork), [name]))

    long_polling = clockwork.lane("longpoll")
    set_pace("20 per s")
    clockwork.visit(clockwork.server, "/?present=longpoll,websocket")
    until_it_says("Both carry the data")
    long_polling.set_carry(False)
    until_it_says("Its payload alone makes it")
    set_pace("4 per s")
    until_it_says("switch both to the same payload")
    long_polling.set_carry(True)
    until_it_says("were measured at different paces: reload the page")
    clockwork.refresh()
    until_it_says("Both carry the data")


def test_a_frozen_server_loses_nothing(clockwork: Browser, lab_of: LabOf) -> None:
    tab, another_page = clockwork, lab_of(clockwork.server)
    tab.control("pace", "4 per s").click()
    for _ in range(3):
        another_page.wait_for("reading")
    tab.execute_script(WATCH_STATES)
    tab.control("freeze").click()
    tab.until_notice("The server is frozen for 5 seconds. Nothing moves, nothing is lost.")

    def changes() -> list[float]:
        """When the server published at that pace."""
        another_page.clock()
        readings = [each["reading"] for each in another_page.received if "reading" in each]
        return [reading["changed_at"] for reading in readings[1:]]

    eventually(lambda: max(b - a for a, b in pairwise(changes())) > 4.5)
    sequence = int(tab.server.http.get("/data").json["cursor"].rpartition("-")[2])
    for part in tab.parts:
        part.until_it_is_past(sequence)
    states = {state for _, state in tab.states}
    assert states <= {"stale", "live"}, "a lane has given up"
    assert tab.lost == 0


def test_the_page_says_why_controls_are_disabled(start: Start, browser: Browser, axe: str) -> None:
    browser.visit(start("serve.py", "--no-controls", "--source", "load", "--every", "0.25"))
    first = int(browser.truth["sequence"])
    for part in browser.parts:
        assert re.fullmatch(r"CPU \d+\.\d %", part["value"]), "it is the machine's load"
        part.until_it_is_past(first + 3)
    assert re.match(r"memory \d+ % · load average", browser.truth["details"])
    rights = browser.find("[data-field=rights]")
    eventually(lambda: rights.is_displayed())
    assert "--controls" in rights.text
    buttons = browser.find_all("[data-control]")
    assert len(buttons) == 8
    assert not any(button.is_enabled() for button in buttons)
    check_looks(browser, axe, "no controls", (PHONE, "dark"))
    # A page that tries all the same gets an error, in words.
    browser.execute_script(
        "arguments[0].disabled = false; arguments[0].click()", browser.control("burst")
    )
    browser.until_notice(
        "That was refused: only a browser on the server's own machine may use this; see --controls."
    )
    assert browser.lane("poll").find("[data-action=cut]").is_enabled(), "it is this page's own lane"


def test_a_source_with_a_pace_of_its_own(tab: Browser) -> None:
    tab.publish("published")
    assert not tab.find("[data-field=rights]").is_displayed()
    buttons = [button for button in tab.find_all("[data-control]") if button.is_displayed()]
    names = [button.get_attribute("data-control") for button in buttons]
    assert names == ["change", "burst", "freeze"]
    sequence = int(tab.truth["sequence"])
    tab.control("change").click()
    all_show(tab, sequence + 1)
    tab.control("burst").click()
    all_show(tab, sequence + 51)
    assert {part["value"] for part in tab.parts} == {"published"}
