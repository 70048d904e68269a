"""Distance, and what the page concludes from it: the far ports, the lesson, and the verdict."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from tests.browsing import LANES, Browser
from tests.conftest import Server, eventually, starting


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
    assert "every byte waits 100 ms each way" in browser.find(".lesson").text
    browser.find_element(By.LINK_TEXT, "50 ms away").click()
    eventually(lambda: browser.current_url.endswith(f":{ports['50 ms away']}/"))
    assert places(browser) == expected("50 ms away")
    assert "every byte waits 25 ms each way" in browser.find(".lesson").text
    browser.find_element(By.LINK_TEXT, "here").click()
    eventually(lambda: browser.current_url == f"{far.url}/")


def test_distance_tells_them_apart(far: Server, browser: Browser) -> None:
    browser.visit(far, port=int(far.out[2].rpartition(":")[2]))
    assert verdict(browser).startswith("Measuring: the verdict comes after three updates.")
    for number in range(5):
        far.publish({"line": f"far {number}"})
        for part in browser.parts:
            part.until_it_shows(f"far {number}")
    eventually(lambda: "sooner" in verdict(browser))
    eventually(lambda: says_what_is_shown(browser))
    figures = browser.figures
    p50 = {transport: lane["latency-p50"] for transport, lane in figures.items()}
    # To be told takes half of the distance; who then fetches waits for all of it once more. The
    # clocks are known to some milliseconds.
    assert p50["websocket"] > 95
    assert p50["sse"] > 95
    assert p50["longpoll"] > 295
    assert p50["poll"] > 95
    assert [lane["lost"] for lane in figures.values()] == [0] * len(LANES)
    browser.picture("200 ms away")


def verdict(browser: Browser) -> str:
    return str(browser.find("[data-field=verdict]").text)


def says_what_is_shown(browser: Browser) -> bool:
    """Whether the verdict agrees with the figures: the server's reports may come in between."""
    figures, text = browser.figures, verdict(browser)
    found = re.fullmatch(
        r"WebSocket, carrying the data, told you (\d+) ms sooner than long polling with its signals"
        r" and used (\d+(?:\.\d)?) times fewer bytes\."
        r" Short polling asked (\d+) times to hear (\d+) changes\.",
        text,
    )
    assert found, text
    sooner, fewer, asked, heard = map(float, found.groups())
    one, other, poll = figures["websocket"], figures["longpoll"], figures["poll"]
    factor = other["bytes-per-update"] / one["bytes-per-update"]
    return (
        abs(other["latency-p50"] - one["latency-p50"] - sooner) < 1
        and abs(factor - fewer) <= (0.05 if factor < 9.95 else 0.5)
        and (asked, heard) == (poll["requests"], poll["seen"])
    )


# The verdict, word by word.


def lane(transport: str, p50: float, size: float, *, updates: int = 3, **more: Any) -> Any:
    """What the verdict knows of a lane."""
    return {"transport": transport, "p50": p50, "bytes": size, "updates": updates} | more


NAMES = {
    "poll": "Short polling",
    "longpoll": "Long polling",
    "sse": "Server-sent events",
    "websocket": "WebSocket",
}
ASKED = "Short polling asked 31 times to hear 3 changes."
POLL = lane("poll", 300, 2000, requests=31)
TOO_FEW = "Measuring: the verdict comes after three updates."


VERDICTS = {
    "sooner, times fewer": (
        [lane("websocket", 5, 100), lane("longpoll", 39, 1300)],
        "WebSocket told you 34 ms sooner than long polling and used 13 times fewer bytes.",
    ),
    "later, times more": (
        [lane("websocket", 39, 1300), lane("longpoll", 5, 540)],
        "WebSocket told you 34 ms later than long polling and used 2.4 times more bytes.",
    ),
    "as soon, as many": (
        [lane("websocket", 5, 100), lane("longpoll", 6, 103)],
        "WebSocket told you as soon as long polling and used as many bytes.",
    ),
    "sooner, percent fewer": (
        [lane("websocket", 5, 100), lane("longpoll", 8, 150)],
        "WebSocket told you 3.0 ms sooner than long polling and used 33 % fewer bytes.",
    ),
    "seconds, percent more": (
        [lane("websocket", 5, 150), lane("longpoll", 1505, 100)],
        "WebSocket told you 1.50 s sooner than long polling and used 50 % more bytes.",
    ),
    "it alone carries": (
        [lane("websocket", 5, 100), lane("longpoll", 39, 1300, carries=False)],
        "WebSocket, carrying the data, told you 34 ms sooner than long polling with its "
        "signals and used 13 times fewer bytes.",
    ),
    "the other alone carries": (
        [lane("websocket", 39, 1000, carries=False), lane("longpoll", 5, 1000)],
        "WebSocket with its signals told you 34 ms later than long polling, carrying the "
        "data, and used as many bytes.",
    ),
    "both signal": (
        [lane("websocket", 5, 100, carries=False), lane("longpoll", 39, 1300, carries=False)],
        "WebSocket told you 34 ms sooner than long polling and used 13 times fewer bytes.",
    ),
    "all four": (
        [lane("websocket", 5, 100), lane("longpoll", 39, 1300), lane("sse", 5, 200), POLL],
        "WebSocket told you 34 ms sooner than long polling and used 13 times fewer bytes. " + ASKED,
    ),
    "instead of long polling": (
        [lane("websocket", 5, 100), lane("longpoll", 39, 1300, updates=2), POLL],
        "WebSocket told you 295 ms sooner than short polling and used 20 times fewer bytes. "
        + ASKED,
    ),
    "instead of WebSocket": (
        [lane("websocket", 5, 100, updates=2), lane("longpoll", 39, 1300), lane("sse", 5, 130)],
        "Server-sent events told you 34 ms sooner than long polling and used 10 times fewer bytes.",
    ),
    "no polling": (
        [lane("websocket", 5, 100), lane("sse", 5, 110)],
        "WebSocket told you as soon as server-sent events and used 9 % fewer bytes.",
    ),
    "too few of one": ([lane("websocket", 5, 100), lane("longpoll", 39, 1300, updates=2)], TOO_FEW),
    "no push": ([POLL, lane("longpoll", 39, 1300)], f"{TOO_FEW} {ASKED}"),
    "only one": ([lane("sse", 5, 100)], TOO_FEW),
    # Seen, but not when it was new: how late, nobody knows.
    "none timely": ([lane("websocket", 5, 100, timely=2), lane("longpoll", 39, 1300)], TOO_FEW),
    "none": ([], TOO_FEW),
}


@pytest.mark.parametrize(("lanes", "said"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict_in_words(on_the_page: Browser, lanes: list[dict[str, Any]], said: str) -> None:
    written = on_the_page.execute_async_script(
        """
        const [lanes, names, done] = arguments;
        const fake = ({ transport, p50, bytes, updates, requests, carries = true, timely }) => ({
          transport, carries, name: names[transport],
          measured: {
            latencies: Array(timely ?? updates).fill(p50), percentile: () => p50,
            bytesPerUpdate: bytes,
            seen: updates, cost: { requests },
          },
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
        NAMES,
    )
    assert written["text"] == said
    for hue, name in written["classes"]:
        assert NAMES[hue.removeprefix("hue ")].lower() == name


@pytest.fixture(scope="module")
def on_the_page(chromium: Browser, far: Server) -> Browser:
    """The file's browser, with the page open, for its modules."""
    chromium.open(far.url)
    return chromium
