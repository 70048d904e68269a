"""Distance on the page: far ports, lesson and verdict."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from pushlab.transports import TRANSPORTS
from tests.browsing import FIGURES, Browser
from tests.conftest import ROOT, Server, eventually, starting


@pytest.fixture(scope="module")
def far() -> Iterator[Server]:
    with starting() as start:
        server = start("serve.py", "--source", "http", "--far", "50", "--far", "200")
        eventually(lambda: len(server.out) == 3)
        yield server


def test_one_page_leads_to_the_others(far: Server, browser: Browser) -> None:
    ports = {"here": far.port} | {
        name: int(url.rpartition(":")[2])
        for name, url in re.findall(r"^(\d+ ms away): (\S+)$", "".join(far.out), re.MULTILINE)
    }
    assert list(ports) == ["here", "50 ms away", "200 ms away"]

    def check_page(here: str, lesson: str) -> None:
        """Check the page of this name, which leads to all."""
        eventually(lambda: browser.current_url == f"http://127.0.0.1:{ports[here]}/")
        links = browser.find_all("nav[aria-label=Distance] a")
        places = [(link.text, link.get_attribute("href")) for link in links]
        assert places == [(name, f"http://127.0.0.1:{port}/") for name, port in ports.items()]
        assert [link.text for link in links if link.get_attribute("aria-current")] == [here]
        assert lesson in browser.find(".lesson").text

    browser.open(far.url)
    check_page("here", "right beside the server")
    browser.find(".lesson a").click()
    check_page("200 ms away", "every byte takes 100 ms in each direction")
    browser.find_element(By.LINK_TEXT, "50 ms away").click()
    check_page("50 ms away", "every byte takes 25 ms in each direction")
    browser.find_element(By.LINK_TEXT, "here").click()
    check_page("here", "right beside the server")


#: The figures, the verdict, and the possible error of the clocks in milliseconds, at one moment.
SHOWN = f"""
const text = (name) => document.querySelector(`[data-field=${{name}}]`).textContent;
const shown = [(() => {{ {FIGURES} }})(), text("verdict"), Number(text("error"))];
document.querySelector(arguments[0])?.click();
return shown;
"""

HINT = r" Switch a lane to “signal, then fetch” to measure what carrying the data saves\."
SPEED = r"(?:(?P<apart>\d+(?:\.\d)?) ms (?P<how>faster|slower) than|as fast as)"
BYTES = r"used (?P<one>[\d,]+) bytes per update against (?P<other>[\d,]+)\."
REQUESTS = r" Short polling sent (?P<requests>\d+) requests for (?P<changes>\d+) changes\."
BOTH_CARRY = rf"Both carry the data: WebSocket was {SPEED} OTHER and {BYTES}{REQUESTS}"
DECOMPOSED = (
    r"WebSocket carries the data and long polling only signals: WebSocket was (?P<apart>\d+) ms"
    r" (?P<how>faster) than OTHER\. Its payload alone makes it (?P<sooner>\d+) ms faster"
    r" and takes (?P<fewer>[\d,]+) bytes less per update; the transport alone makes it .*"
    rf" and takes (?P<between>[\d,]+) bytes less per update\.{REQUESTS}"
)


def test_distance_makes_the_difference(far: Server, browser: Browser) -> None:
    browser.visit(far, port=int(far.out[2].rpartition(":")[2]))
    assert browser.find("[data-field=verdict]").text == MEASURING
    for number in range(5):
        browser.publish(f"carried {number}")
    eventually(lambda: says_what_is_shown(browser, "longpoll", HINT))
    # The reading takes half of the round trip.
    assert all(p50 > 100 for p50 in longest_p50s(browser).values())
    browser.picture("200 ms away, all carry")

    switch = "[data-transport=longpoll] [data-action=carry]"
    carried, _, error = browser.execute_script(SHOWN, switch)
    browser.until_live()
    for number in range(5):
        browser.publish(f"signalled {number}")
    # Long polling now signals, and has carried before: the verdict tells both effects apart.
    eventually(lambda: says_what_is_shown(browser, "longpoll", "", carried, error))
    # A signal takes half of the round trip; the fetch after it one more.
    assert longest_p50s(browser)["longpoll"] > 300
    assert browser.lost == 0
    browser.picture("200 ms away, long polling signals")


def longest_p50s(browser: Browser) -> dict[str, float]:
    """The p50s in milliseconds plus the clocks' largest error.

    The error is half of the round trip. What of it is the distance is the same in both directions.
    """
    figures, _, error = browser.execute_script(SHOWN, "nothing")
    return {name: lane["latency-p50"] + error - 100 + 1 for name, lane in figures.items()}


def says_what_is_shown(
    browser: Browser, other: str, more: str, carried: Any = None, error: float = 0.0
) -> bool:
    """Whether the verdict compares with this lane, by the figures.

    If the lane has carried before, it tells the payload's effect from the transport's, by the
    figures `carried` of then, with the error of the clocks at that time. The server's reports may
    come between the verdict and the figures.
    """
    lanes, text, error_now = browser.execute_script(SHOWN, "nothing")
    name = TRANSPORTS[other].title.lower()
    sentences = DECOMPOSED if carried else BOTH_CARRY + more
    found = re.fullmatch(sentences.replace("OTHER", name), text)
    if not found:
        return False
    said = {key: float((value or "0").replace(",", "")) for key, value in found.groupdict().items()
            if key != "how"}  # fmt: skip
    one, poll = lanes["websocket"], lanes["poll"]
    sooner = lanes[other]["latency-p50"] - one["latency-p50"]
    apart = said["apart"] * (1 if found["how"] == "faster" else -1)
    pairs = [
        (sooner, apart, 1 if apart else 2),
        (poll["requests"], said["requests"], 1),
        (poll["seen"], said["changes"], 1),
    ]
    if carried:
        clocks = 1 + error - 100 + error_now - 100  # by how much they may be known better by now
        for key, figure, tolerance in [("sooner", "latency-p50", clocks),
                                       ("fewer", "bytes-per-update", 1)]:  # fmt: skip
            saved = lanes["longpoll"][figure] - carried["longpoll"][figure]
            pairs.append((saved, said[key], tolerance))
        between = carried["longpoll"]["bytes-per-update"] - one["bytes-per-update"]
        pairs.append((between, said["between"], 1))
    else:
        pairs += [
            (one["bytes-per-update"], said["one"], 1),
            (lanes[other]["bytes-per-update"], said["other"], 1),
        ]
    return all(abs(a - b) < tolerance for a, b, tolerance in pairs)


# The verdict, word by word.


def lane(transport: str, p50: float, size: float | None, **more: Any) -> Any:
    """A lane's figures; `other`: those with the other payload.

    `paces`: of the data meanwhile, `before` with the other payload.
    """
    return {"transport": transport, "p50": p50, "bytes": size, "updates": 3} | more


WEBSOCKET, LONGPOLL = lane("websocket", 5, 121), lane("longpoll", 39, 808)
SSE, POLL = lane("sse", 5, 130), lane("poll", 300, 2000, requests=31)
#: A lane's payload, where it is not to carry; and that its bytes are not counted.
SIGNALLING, UNCOUNTED = {"carries": False}, {"bytes": None}
BOTH = LONGPOLL | {"other": (258, 1514)}
#: The data's paces while a lane was measured, and before that, with the other payload.
SLOW, FAST, FASTER_NOW = {"paces": ["1"]}, {"paces": ["20"]}, {"paces": ["20", "1"]}
SLOW_BEFORE = FASTER_NOW | {"before": ["1"]}

MEASURING = "Measuring: the verdict comes after three updates."
SENT = " Short polling sent 31 requests for 3 changes."
ASIDE = " Switch a lane to “signal, then fetch” to measure what carrying the data saves."
CARRY, SIGNAL = "Both carry the data: ", "Both only signal: "
USED = " and used {} bytes per update against {}."
FASTER = "WebSocket was 34 ms faster than long polling"
FASTER_USED = FASTER + USED.format(121, 808)
THAN_POLL = "WebSocket was 295 ms faster than short polling" + USED.format(121, "2,000") + SENT
SSE_FASTER = "Server-sent events was 34 ms faster than long polling" + USED.format(130, 808)
ALIKE = ": switch both to the same payload to compare the transports."
PACES = (
    "WebSocket and long polling were measured at different paces: reload the page to compare them."
)
DIFFERENT = "WebSocket carries the data and long polling only signals: "
DIFFER = f"WebSocket carries the data and long polling only signals{ALIKE}"
SAVES = " Carrying alone makes long polling 219 ms faster and takes 706 bytes less per update."
COSTS = " Carrying alone makes WebSocket no faster and takes 21 bytes more per update."

#: Lanes, and what is said of them: the comparison, and what follows it.
VERDICTS: dict[str, tuple[list[Any], str, str]] = {
    "faster": ([WEBSOCKET, LONGPOLL], CARRY + FASTER_USED, ASIDE),
    "slower": ([lane("websocket", 39, 1300), lane("longpoll", 5, 540)],
        CARRY + "WebSocket was 34 ms slower than long polling" + USED.format("1,300", 540), ASIDE),
    "as fast": ([lane("websocket", 5, 100), lane("longpoll", 6, 103)],
        CARRY + "WebSocket was as fast as long polling" + USED.format(100, 103), ASIDE),
    "seconds": ([lane("websocket", 5, 150), lane("longpoll", 1505, 100)],
        CARRY + "WebSocket was 1.50 s faster than long polling" + USED.format(150, 100), ASIDE),
    "not counted": ([WEBSOCKET | UNCOUNTED, LONGPOLL | UNCOUNTED], f"{CARRY}{FASTER}.", ASIDE),
    "signal": ([WEBSOCKET | SIGNALLING, LONGPOLL | SIGNALLING], SIGNAL + FASTER_USED, ASIDE),
    "it alone carries": ([WEBSOCKET, LONGPOLL | SIGNALLING], DIFFER, ASIDE),
    "the other alone carries": ([WEBSOCKET | SIGNALLING, LONGPOLL],
        f"WebSocket only signals and long polling carries the data{ALIKE}", ASIDE),
    "another pair is alike": ([WEBSOCKET, LONGPOLL | SIGNALLING, POLL], CARRY + THAN_POLL, ASIDE),
    "another pair signals": ([WEBSOCKET, LONGPOLL | SIGNALLING, SSE | SIGNALLING],
        SIGNAL + SSE_FASTER, ASIDE),
    "what carrying saves": ([WEBSOCKET, BOTH], CARRY + FASTER_USED, SAVES),
    "told apart": ([WEBSOCKET, lane("longpoll", 258, 1514, other=(39, 808), **SIGNALLING)],
        f"{DIFFERENT}WebSocket was 253 ms faster than long polling. Its payload alone makes it"
        " 219 ms faster and takes 706 bytes less per update; the transport alone makes it"
        " 34 ms faster and takes 687 bytes less per update.", ""),
    "told apart by the pushing lane": (
        [WEBSOCKET | {"other": (224, 828)}, lane("longpoll", 258, 1514, **SIGNALLING)],
        f"{DIFFERENT}WebSocket was 253 ms faster than long polling. Its payload alone makes it"
        " 219 ms faster and takes 707 bytes less per update; the transport alone makes it"
        " 34 ms faster and takes 686 bytes less per update.", ""),
    "effects that cancel": (
        [lane("websocket", 40, 828, **SIGNALLING), BOTH | {"p50": 39, "other": (74, 1514)}],
        "WebSocket only signals and long polling carries the data: WebSocket was as fast as long"
        " polling. Its payload alone makes it 35 ms slower and takes 706 bytes more per update;"
        " the transport alone makes it 34 ms faster and takes 686 bytes less per update.", ""),
    "told apart, not counted": (
        [WEBSOCKET | UNCOUNTED, lane("longpoll", 258, None, other=(6, None), **SIGNALLING)],
        f"{DIFFERENT}WebSocket was 253 ms faster than long polling. Its payload alone makes it"
        " 252 ms faster; the transport alone makes it no faster.", ""),
    "told apart before another pair": (
        [POLL, WEBSOCKET, lane("longpoll", 258, 1514, other=(39, 808), **SIGNALLING)],
        f"{DIFFERENT}WebSocket was 253 ms faster than long polling. Its payload alone makes it"
        " 219 ms faster and takes 706 bytes less per update; the transport alone makes it"
        " 34 ms faster and takes 687 bytes less per update.", SENT),
    "at the same paces": ([WEBSOCKET | FASTER_NOW, LONGPOLL | {"paces": ["1", "20"]}],
        CARRY + FASTER_USED, ASIDE),
    "at different paces": ([WEBSOCKET | FAST, LONGPOLL | SLOW], PACES, ASIDE),
    "another pair has the same paces": (
        [WEBSOCKET | FAST, LONGPOLL | FASTER_NOW, SSE | FASTER_NOW], CARRY + SSE_FASTER, ASIDE),
    "another pace before": ([WEBSOCKET | FASTER_NOW, BOTH | SLOW_BEFORE],
        CARRY + FASTER_USED, ASIDE),
    "another lane's paces are the same": (
        [WEBSOCKET | FAST | {"other": (4, 100)}, LONGPOLL | FAST | {"other": (9, 9), "before": []}],
        CARRY + FASTER_USED, COSTS),
    "not told apart at another pace": (
        [WEBSOCKET | FAST, lane("longpoll", 258, 1514, other=(39, 808), before=["1"],
                                **SIGNALLING, **FAST)], DIFFER, ASIDE),
    "carrying costs": ([WEBSOCKET | {"other": (4, 100)}, LONGPOLL], CARRY + FASTER_USED, COSTS),
    "carrying costs, not counted": (
        [WEBSOCKET | UNCOUNTED, LONGPOLL | UNCOUNTED | {"other": (9, None)}],
        f"{CARRY}{FASTER}.", " Carrying alone makes long polling 30 ms slower."),
    "all four": ([POLL, LONGPOLL, SSE, WEBSOCKET], CARRY + FASTER_USED, SENT + ASIDE),
    "not long polling": ([POLL, LONGPOLL | {"updates": 2}, WEBSOCKET], CARRY + THAN_POLL, ASIDE),
    "not WebSocket": ([LONGPOLL, SSE, WEBSOCKET | {"updates": 2}], CARRY + SSE_FASTER, ASIDE),
    "no polling": ([SSE, WEBSOCKET],
        CARRY + "WebSocket was as fast as server-sent events" + USED.format(121, 130), ASIDE),
    "too few of one": ([WEBSOCKET, LONGPOLL | {"updates": 2}], MEASURING, ""),
    "no push": ([POLL, LONGPOLL],
        CARRY + "Long polling was 261 ms faster than short polling" + USED.format(808, "2,000"),
        SENT + ASIDE),
    "only one": ([SSE], "", ""),
    "only one, which polls": ([POLL], "", SENT[1:]),
    # Seen, but late because the lane was stopped: its latency is not known.
    "none timely": ([WEBSOCKET | {"timely": 2}, LONGPOLL], MEASURING, ""),
    "none": ([], "", ""),
}  # fmt: skip


@pytest.mark.parametrize(("lanes", "compared", "more"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict_in_words(
    modules: Browser, lanes: list[dict[str, Any]], compared: str, more: str
) -> None:
    titles = {name: transport.title for name, transport in TRANSPORTS.items()}
    written = modules.execute_async_script(
        """
        const [lanes, titles, done] = arguments;
        const measured = (paces, p50, bytesPerUpdate, seen, timely = seen, requests) => ({
          latencies: Array(timely).fill(p50), percentile: () => p50,
          bytesPerUpdate, seen, cost: { requests }, paces: new Set(paces),
        });
        const fake = ({ transport, carries = true, p50, bytes, updates, other, ...more }) => ({
          transport, carries, name: titles[transport],
          measurements: new Map([
            [carries, measured(more.paces, p50, bytes, updates, more.timely, more.requests)],
            ...(other ? [[!carries, measured(more.before ?? more.paces, ...other, 3)]] : []),
          ]),
        });
        import("/static/verdict.js").then(({ showVerdict }) => {
          const paragraph = document.createElement("p");
          showVerdict(paragraph, lanes.map(fake));
          const hues = [...paragraph.querySelectorAll(".hue")];
          const classes = hues.map((name) => [name.className, name.textContent.toLowerCase()]);
          done({ text: paragraph.textContent, classes });
        }, (error) => done(String(error)));
        """,
        lanes,
        titles,
    )
    assert written["text"] == compared + more
    for hue, name in written["classes"]:
        assert titles[hue.removeprefix("hue ")].lower() == name


# The percentile, by the same cases as in Python.


def test_the_percentile_is_that_of_python(modules: Browser) -> None:
    cases = json.loads((ROOT / "tests" / "percentiles.json").read_text())
    assert cases
    computed = modules.execute_async_script(
        """
        const [cases, done] = arguments;
        import("/static/measurement.js").then(({ percentile }) => {
          done(cases.map(({ samples, q }) => percentile(samples, q) ?? null));
        }, (error) => done(String(error)));
        """,
        cases,
    )
    assert computed == pytest.approx([case["value"] for case in cases], rel=1e-9)
