"""Distance on the page: the far ports, the lesson and the verdict."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from pushlab.transports import TRANSPORTS
from tests.browsing import LANES, Browser
from tests.conftest import ROOT, Server, eventually, starting


@pytest.fixture(scope="module")
def far() -> Iterator[Server]:
    with starting() as start:
        server = start("serve.py", "--source", "http", "--far", "50", "--far", "200")
        eventually(lambda: len(server.out) == 3)
        yield server


def places(browser: Browser) -> list[tuple[str, str, str | None]]:
    links = browser.find_elements(By.CSS_SELECTOR, "nav[aria-label=Distance] a")
    return [
        (link.text, str(link.get_attribute("href")), link.get_attribute("aria-current"))
        for link in links
    ]


def test_one_page_leads_to_the_others(far: Server, browser: Browser) -> None:
    ports = {
        name: int(url.rpartition(":")[2])
        for name, url in re.findall(r"^(\d+ ms away): (\S+)$", "".join(far.out), re.MULTILINE)
    } | {"here": far.port}
    assert list(ports) == ["50 ms away", "200 ms away", "here"]

    def expected(here: str) -> list[tuple[str, str, str | None]]:
        return [
            (name, f"http://127.0.0.1:{ports[name]}/", "page" if name == here else None)
            for name in ("here", "50 ms away", "200 ms away")
        ]

    browser.open(far.url)
    assert places(browser) == expected("here")
    lesson = browser.find(".lesson")
    assert "right beside the server" in lesson.text
    lesson.find_element(By.TAG_NAME, "a").click()
    eventually(lambda: browser.current_url.endswith(f":{ports['200 ms away']}/"))
    assert places(browser) == expected("200 ms away")
    assert "every byte takes 100 ms in each direction" in browser.find(".lesson").text
    browser.find_element(By.LINK_TEXT, "50 ms away").click()
    eventually(lambda: browser.current_url.endswith(f":{ports['50 ms away']}/"))
    assert places(browser) == expected("50 ms away")
    assert "every byte takes 25 ms in each direction" in browser.find(".lesson").text
    browser.find_element(By.LINK_TEXT, "here").click()
    eventually(lambda: browser.current_url == f"{far.url}/")


def test_distance_tells_them_apart(far: Server, browser: Browser) -> None:
    browser.visit(far, port=int(far.out[2].rpartition(":")[2]))
    assert verdict(browser) == MEASURING
    publish_five(far, browser, "carried")
    eventually(lambda: says_what_is_shown(browser, BOTH_CARRY + HINT))
    for transport, p50 in p50s(browser).items():
        # The reading takes half of the round trip. The clocks are known to some milliseconds.
        assert p50 > 95, transport
    browser.picture("200 ms away, all carry")

    browser.lane("longpoll").set_carry(False)
    publish_five(far, browser, "signalled")
    # The same payload is compared first; long polling now signals, short polling still carries.
    eventually(lambda: says_what_is_shown(browser, WITH_SHORT_POLLING + SAVED))
    # A signal takes half of the round trip; the fetch after it one more.
    assert p50s(browser)["longpoll"] > 295
    assert [lane["lost"] for lane in browser.figures.values()] == [0] * len(LANES)
    browser.picture("200 ms away, long polling signals")


def publish_five(far: Server, browser: Browser, name: str) -> None:
    for number in range(5):
        far.publish({"line": f"{name} {number}"})
        for part in browser.parts:
            part.until_it_shows(f"{name} {number}")


def p50s(browser: Browser) -> dict[str, float]:
    return {transport: lane["latency-p50"] for transport, lane in browser.figures.items()}


def verdict(browser: Browser) -> str:
    return str(browser.find("[data-field=verdict]").text)


MEASURING = "Measuring: the verdict comes after three updates."
HINT = r" Switch a lane to “signal, then fetch” to measure what carrying the data saves\."
SPEED = r"(?:(?P<apart>\d+(?:\.\d)?) ms (?P<how>faster|slower) than|as fast as)"
BYTES = r"used (?P<one>[\d,]+) bytes per update against (?P<other>[\d,]+)\."
REQUESTS = r" Short polling sent (?P<requests>\d+) requests for (?P<changes>\d+) changes\."
BOTH_CARRY = rf"Both carry the data: WebSocket was {SPEED} long polling and {BYTES}{REQUESTS}"
WITH_SHORT_POLLING = BOTH_CARRY.replace("long polling", "short polling")
SAVED = (
    r" Carrying alone makes long polling (?P<sooner>\d+) ms faster"
    r" and takes (?P<fewer>[\d,]+) bytes less per update\."
)


def says_what_is_shown(browser: Browser, pattern: str) -> bool:
    """Whether the verdict agrees with the figures: the server's reports may come in between."""
    figures, text = browser.figures, verdict(browser)
    if text.startswith("Measuring"):
        return False
    found = re.fullmatch(pattern, text)
    if not found:
        return False
    said = {name: text and text.replace(",", "") for name, text in found.groupdict().items()}
    one, poll = figures["websocket"], figures["poll"]
    other = figures["longpoll" if "than long" in text or "as long" in text else "poll"]
    sooner = other["latency-p50"] - one["latency-p50"]
    if said["apart"]:
        assert (sooner > 0) == (said["how"] == "faster")
    if "sooner" in said:  # 200 ms away, a signal costs a round trip more
        assert 150 < float(said["sooner"]) < 300
        assert 100 < float(said["fewer"]) < 2000
    return (
        abs(abs(sooner) - float(said["apart"] or 0)) < (1 if said["apart"] else 2)
        and abs(one["bytes-per-update"] - float(said["one"])) < 1
        and abs(other["bytes-per-update"] - float(said["other"])) < 1
        and (int(said["requests"]), int(said["changes"])) == (poll["requests"], poll["seen"])
    )


# The verdict, word by word.


def lane(transport: str, p50: float, size: float | None, **more: Any) -> Any:
    """A lane's measurements; `other` with the other payload: p50 and bytes."""
    return {"transport": transport, "p50": p50, "bytes": size, "updates": 3} | more


WEBSOCKET, LONGPOLL = lane("websocket", 5, 121), lane("longpoll", 39, 808)
SSE, POLL = lane("sse", 5, 130), lane("poll", 300, 2000, requests=31)
#: A lane's payload, where it is not to carry.
SIGNALLING = {"carries": False}
#: A lane that has measured both payloads.
BOTH = LONGPOLL | {"other": (258, 1514)}
SENT = " Short polling sent 31 requests for 3 changes."
ASIDE = " Switch a lane to “signal, then fetch” to measure what carrying the data saves."
FASTER = (
    "Both carry the data: WebSocket was 34 ms faster than long polling"
    " and used 121 bytes per update against 808."
)
DIFFER = (
    "WebSocket carries the data and long polling only signals:"
    " switch both to the same payload to compare the transports."
)

VERDICTS = {
    "faster": ([WEBSOCKET, LONGPOLL], FASTER + ASIDE),
    "slower": (
        [lane("websocket", 39, 1300), lane("longpoll", 5, 540)],
        "Both carry the data: WebSocket was 34 ms slower than long polling"
        " and used 1,300 bytes per update against 540." + ASIDE,
    ),
    "as fast": (
        [lane("websocket", 5, 100), lane("longpoll", 6, 103)],
        "Both carry the data: WebSocket was as fast as long polling"
        " and used 100 bytes per update against 103." + ASIDE,
    ),
    "seconds": (
        [lane("websocket", 5, 150), lane("longpoll", 1505, 100)],
        "Both carry the data: WebSocket was 1.50 s faster than long polling"
        " and used 150 bytes per update against 100." + ASIDE,
    ),
    "bytes are not counted": (
        [WEBSOCKET | {"bytes": None}, LONGPOLL | {"bytes": None}],
        "Both carry the data: WebSocket was 34 ms faster than long polling." + ASIDE,
    ),
    "both signal": (
        [WEBSOCKET | SIGNALLING, LONGPOLL | SIGNALLING],
        FASTER.replace("carry the data", "only signal") + ASIDE,
    ),
    "it alone carries": ([WEBSOCKET, LONGPOLL | SIGNALLING], DIFFER + ASIDE),
    "the other alone carries": (
        [WEBSOCKET | SIGNALLING, LONGPOLL],
        "WebSocket only signals and long polling carries the data:"
        " switch both to the same payload to compare the transports." + ASIDE,
    ),
    "another pair has the same payload": (
        [WEBSOCKET, LONGPOLL | SIGNALLING, POLL],
        "Both carry the data: WebSocket was 295 ms faster than short polling"
        " and used 121 bytes per update against 2,000." + SENT + ASIDE,
    ),
    "another pair signals": (
        [WEBSOCKET, LONGPOLL | SIGNALLING, SSE | SIGNALLING],
        "Both only signal: Server-sent events was 34 ms faster than long polling"
        " and used 130 bytes per update against 808." + ASIDE,
    ),
    "what carrying saves": (
        [WEBSOCKET, BOTH],
        f"{FASTER} Carrying alone makes long polling 219 ms faster"
        " and takes 706 bytes less per update.",
    ),
    "what carrying saves, while it signals": (
        [WEBSOCKET, lane("longpoll", 258, 1514, other=(39, 808), **SIGNALLING)],
        f"{DIFFER} Carrying alone makes long polling 219 ms faster"
        " and takes 706 bytes less per update.",
    ),
    "what carrying costs": (
        [WEBSOCKET | {"other": (4, 100)}, LONGPOLL],
        f"{FASTER} Carrying alone makes WebSocket no faster and takes 21 bytes more per update.",
    ),
    "what carrying saves, uncounted": (
        [WEBSOCKET | {"bytes": None}, LONGPOLL | {"bytes": None, "other": (9, None)}],
        "Both carry the data: WebSocket was 34 ms faster than long polling."
        " Carrying alone makes long polling 30 ms slower.",
    ),
    "all four": ([POLL, LONGPOLL, SSE, WEBSOCKET], FASTER + SENT + ASIDE),
    "instead of long polling": (
        [POLL, LONGPOLL | {"updates": 2}, WEBSOCKET],
        "Both carry the data: WebSocket was 295 ms faster than short polling"
        " and used 121 bytes per update against 2,000." + SENT + ASIDE,
    ),
    "instead of WebSocket": (
        [LONGPOLL, SSE, WEBSOCKET | {"updates": 2}],
        "Both carry the data: Server-sent events was 34 ms faster than long polling"
        " and used 130 bytes per update against 808." + ASIDE,
    ),
    "no polling": (
        [SSE, WEBSOCKET],
        "Both carry the data: WebSocket was as fast as server-sent events"
        " and used 121 bytes per update against 130." + ASIDE,
    ),
    "too few of one": ([WEBSOCKET, LONGPOLL | {"updates": 2}], MEASURING),
    "no push": ([POLL, LONGPOLL], MEASURING + SENT),
    "only one": ([SSE], MEASURING),
    # Seen, but late because the lane was stopped: its latency is not known.
    "none timely": ([WEBSOCKET | {"timely": 2}, LONGPOLL], MEASURING),
    "none": ([], MEASURING),
}


@pytest.mark.parametrize(("lanes", "said"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict_in_words(on_the_page: Browser, lanes: list[dict[str, Any]], said: str) -> None:
    titles = {name: transport.title for name, transport in TRANSPORTS.items()}
    written = on_the_page.execute_async_script(
        """
        const [lanes, titles, done] = arguments;
        const measured = (p50, bytesPerUpdate, seen, timely = seen, requests = undefined) => ({
          latencies: Array(timely).fill(p50), percentile: () => p50,
          bytesPerUpdate, seen, cost: { requests },
        });
        const fake = ({ transport, carries = true, p50, bytes, updates, other, ...more }) => ({
          transport, carries, name: titles[transport],
          measurements: new Map([
            [carries, measured(p50, bytes, updates, more.timely, more.requests)],
            ...(other ? [[!carries, measured(...other, 3)]] : []),
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
    assert written["text"] == said
    for hue, name in written["classes"]:
        assert titles[hue.removeprefix("hue ")].lower() == name


# The percentile, by the same cases as in Python.


def test_the_percentile_is_that_of_python(on_the_page: Browser) -> None:
    cases = json.loads((ROOT / "tests" / "percentiles.json").read_text())
    assert cases
    computed = on_the_page.execute_async_script(
        """
        const [cases, done] = arguments;
        import("/static/measurement.js").then(({ percentile }) => {
          done(cases.map(({ samples, q }) => percentile(samples, q) ?? null));
        }, (error) => done(String(error)));
        """,
        cases,
    )
    assert computed == pytest.approx([case["value"] for case in cases], rel=1e-9)


@pytest.fixture(scope="module")
def on_the_page(chromium: Browser, far: Server) -> Browser:
    """The file's browser, with the page open, for its modules."""
    chromium.open(far.url)
    return chromium
