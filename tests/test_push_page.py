"""push.js in Chromium, in the page of an app of one's own."""

import gzip
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pushlab.push import STATIC
from tests.browsing import Browser, in_another_tab, on_another_page
from tests.conftest import eventually, row, until_same
from tests.hosting import Hosted
from tests.relay import Connection, Relay

TRANSPORTS = ("websocket", "sse", "longpoll")
STATE, LOG = "stock/tea", "orders/7"

#: Follows topics, and notes every call in `calls`.
FOLLOW = """
const [url, topics, options, done] = arguments;
import(url).then(({ follow }) => {
  window.calls = [];
  for (const name of ["onReading", "onReset", "onState", "onRefused"])
    options[name] = (...values) => calls.push([name, ...values]);
  window.following = follow(topics, options);
  done("");
}).catch((error) => done(String(error)));
"""

#: The numbers of a topic's readings among these calls.
NUMBERS = """
const readings = calls.filter(([name]) => name === "onReading").map(([_, reading]) => reading);
return readings.filter(({ topic }) => topic === arguments[0]).map(({ value }) => value.n);
"""


class App(Hosted):
    """tests/pushing.py."""

    def __init__(self, port: int = 0) -> None:
        super().__init__("python", "tests/pushing.py", "{port}", port=port, path="/")

    def send(self, topic: str, *values: Any) -> list[str]:
        """Publish these; return their cursors."""
        response = self.http.post("/publish", [topic, [{"n": value} for value in values]])
        assert response.status == 200, response
        return list(response.json)

    def set(self, **what: Any) -> None:
        """Set what is refused and what is blocked, and that nothing else is."""
        assert self.http.post("/set", what).status == 200

    @property
    def seen(self) -> dict[str, Any]:
        return dict(self.http.get("/seen").json)


class Page:
    """A page that follows topics."""

    def __init__(self, browser: Browser, app: App, *, port: int = 0) -> None:
        self.browser, self.app = browser, app
        browser.open(f"http://127.0.0.1:{port or app.port}/")

    def follow(self, *topics: str, prefix: str = "/push", **options: Any) -> "Page":
        arguments = (f"{prefix}/push.js", topics, options)
        assert self.browser.execute_async_script(FOLLOW, *arguments) == ""
        return self

    def close(self) -> None:
        """Follow no more, so that the page can follow something else."""
        self.browser.execute_script("following.close()")

    def calls(self, name: str) -> list[Any]:
        """The values with which a function of the page was called."""
        calls = self.browser.execute_script("return calls")
        return [values for called, *values in calls if called == name]

    def numbers(self, topic: str = LOG) -> list[int]:
        """What was received of a topic."""
        return self.browser.execute_script(NUMBERS, topic)  # type: ignore[no-any-return]

    @property
    def state(self) -> str:
        return str(self.browser.execute_script("return following.state"))

    def until_live(self) -> "Page":
        until_same(lambda: (self.state, "live"))
        return self

    def until_received(self, *numbers: int, topic: str = LOG) -> None:
        until_same(lambda: (self.numbers(topic), list(numbers)))

    def refusals(self) -> list[Any]:
        return [refusal["status"] for [refusal] in self.calls("onRefused")]

    def complaints(self) -> list[str]:
        return [text for text in self.browser.complaints() if "/push" not in text]


@pytest.fixture(scope="module")
def running() -> Iterator[App]:
    app = App()
    yield app
    assert app.stop() == 0, app.log
    assert "Traceback" not in app.log, app.log


@pytest.fixture
def app(running: App) -> App:
    """The app, with nothing refused and nothing blocked."""
    running.set()
    return running


@pytest.fixture
def page(browser: Browser, app: App) -> Page:
    return Page(browser, app)


def last(app: App, topic: str) -> dict[str, str]:
    """Return where to go on, as the app's page would."""
    return {topic: app.send(topic, 0)[-1]}


# What is loaded.


def loaded(path: Path) -> set[Path]:
    """The module, and those that it imports."""
    imported = re.findall(r'\bfrom "([^"]+)"', path.read_text())
    return {path}.union(*(loaded((path.parent / name).resolve()) for name in imported))


def test_it_is_small() -> None:
    """6 kB with the first transport, and little more for each that is tried after it."""

    def size(paths: set[Path]) -> int:
        return sum(len(gzip.compress(path.read_bytes(), 9, mtime=0)) for path in paths)

    graph = loaded(STATIC / "push.js")
    assert {path.name for path in graph} > {"push.js", "subscription.js", "reconnector.js"}
    first, *others = (STATIC / "transports" / f"{name}.js" for name in TRANSPORTS)
    assert size(graph | loaded(first)) < 6000
    for other in others:
        assert size(loaded(other) - graph) < 700


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_it_loads_only_what_it_uses(transport: str, page: Page) -> None:
    page.follow(STATE, transports=[transport]).until_live()
    names = page.browser.execute_script(
        "return performance.getEntriesByType('resource').map(({ name }) => name)"
        ".filter((name) => name.endsWith('.js'))"
    )
    graph = loaded(STATIC / "push.js") | {STATIC / "transports" / f"{transport}.js"}
    expected = {f"{page.app.url}/push/{path.relative_to(STATIC).as_posix()}" for path in graph}
    assert sorted(names) == sorted(expected)
    assert page.browser.complaints() == [], "the policy is strict"


# Topics.


@pytest.mark.parametrize("carry", [True, False], ids=["carry", "signal"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_two_topics(transport: str, carry: bool, page: Page) -> None:
    """A log's readings come each once, in order; of a state the newest counts."""
    app = page.app
    after = last(app, LOG)
    app.send(LOG, 1, 2, 3)
    app.send(STATE, 1, 2)
    page.follow(LOG, STATE, after=after, carry=carry, transports=[transport])
    page.until_received(1, 2, 3)
    page.until_received(2, topic=STATE)
    app.send(LOG, *range(4, 50))
    page.until_received(*range(1, 50))
    app.send(STATE, *range(3, 20))
    until_same(lambda: (page.numbers(STATE)[-1], 19))
    assert page.numbers(STATE) == sorted(set(page.numbers(STATE)))
    assert page.numbers() == list(range(1, 50))
    [[reading], *_] = page.calls("onReading")
    assert sorted(reading) == ["changed_at", "cursor", "topic", "value"]
    assert page.calls("onReset") == []
    assert app.seen["transports"][-1] == transport
    assert page.browser.complaints() == []


def test_one_topic_from_a_cursor(page: Page) -> None:
    [*_, cursor, _, _] = page.app.send("orders/1", 1, 2, 3, 4)
    options = {"after": cursor}
    arguments = ("/push/push.js", "orders/1", options)
    assert page.browser.execute_async_script(FOLLOW, *arguments) == ""
    page.until_received(3, 4, topic="orders/1")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_topic_without_a_reading(transport: str, page: Page) -> None:
    """It has a position, but nothing to show, until something is published."""
    topic = f"orders/{100 + TRANSPORTS.index(transport)}"
    page.follow(topic, transports=[transport]).until_live()
    assert page.calls("onReading") == page.calls("onReset") == []
    page.app.send(topic, 1)
    page.until_received(1, topic=topic)


def test_the_prefix(page: Page) -> None:
    page.follow(LOG, prefix="/shop/push", after=last(page.app, LOG)).until_live()
    page.app.send(LOG, 1)
    page.until_received(1)
    urls = {params["url"] for name, params in page.browser.network_log()
            if name == "webSocketCreated"}  # fmt: skip
    assert urls
    assert all(url.startswith(f"{page.app.ws}/shop/push/update?") for url in urls)


def test_an_unknown_transport_is_an_error(page: Page) -> None:
    arguments = ("/push/push.js", STATE, {"transports": ["sse", "ws"]})
    error = page.browser.execute_async_script(FOLLOW, *arguments)
    assert error == "TypeError: no transport ws"


# Away, and back.


@contextmanager
def offline(browser: Browser) -> Iterator[None]:
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions | {"offline": True})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions | {"offline": False})


@pytest.mark.parametrize("away", [in_another_tab, on_another_page, offline])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nothing_is_missed_while_away(
    transport: str, away: Callable[[Browser], AbstractContextManager[None]], page: Page
) -> None:
    """Hidden, kept for the Back button, or without a network: then a log of 1,000 catches up."""
    browser, app = page.browser, page.app
    with Relay(app.port) as relay:
        page = Page(browser, app, port=relay.port)
        page.follow(LOG, after=last(app, LOG), transports=[transport]).until_live()
        app.send(LOG, 1)
        page.until_received(1)
        held = {"websocket": "Upgrade: websocket", "sse": "text/event-stream", "longpoll": ""}

        def is_connected() -> bool:
            """Whether the page holds a connection that the server could push to."""
            return any(not each.closed.is_set() for each in relay.naming(held[transport]))

        with away(browser):
            if away is offline:
                until_same(lambda: (page.state, "offline"))
            elif transport != "longpoll":  # whose connection is kept, and idle
                eventually(lambda: not is_connected())
            app.send(LOG, *range(2, 1002))
        page.until_received(*range(1, 1002))
        assert page.calls("onReset") == []
        page.until_live()
        app.send(LOG, 1002)
        page.until_received(*range(1, 1003))
        assert page.refusals() == []
        browser.open("about:blank")


@pytest.mark.parametrize("stays", [False, True])
def test_a_hidden_page_can_stay_connected(stays: bool, page: Page) -> None:
    page.follow(LOG, whileHidden=stays).until_live()
    page.browser.execute_script(
        "window.wasHidden = false;"
        "document.addEventListener('visibilitychange', () => { wasHidden = true; });"
    )
    with in_another_tab(page.browser):
        pass
    eventually(lambda: page.browser.execute_script("return wasHidden && !document.hidden"))
    page.until_live()
    states = [state for state, _ in page.calls("onState")]
    assert ("stopped" in states) is not stays
    assert states.count("connecting") == (1 if stays else 2)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_server_restarts(transport: str, browser: Browser) -> None:
    """What was published meanwhile comes, or one reset says from where on nothing is missing."""
    app = App()
    page = Page(browser, app)
    page.follow(LOG, STATE, transports=[transport]).until_live()
    app.send(LOG, 1)
    app.send(STATE, 1)
    page.until_received(1)
    page.until_received(1, topic=STATE)
    assert app.stop() == 0, app.log
    until_same(lambda: (page.state in ("retrying", "connecting"), True))
    app = App(port=app.port)
    cursors = app.send(LOG, *range(2, 1002))
    app.send(STATE, 2)

    def is_complete() -> bool:
        resets = [reset for [reset] in page.calls("onReset")]
        if not resets:
            return page.numbers() == list(range(1, 1002))
        [reset] = resets
        assert reset["topic"] == LOG
        first = cursors.index(reset["cursor"]) + 1 if reset["cursor"] in cursors else 0
        return page.numbers() == [1, *range(2 + first, 1002)]

    eventually(is_complete)
    page.until_received(1, 2, topic=STATE)
    page.until_live()
    app.send(LOG, 1002)
    until_same(lambda: (page.numbers()[-1], 1002))
    assert len(page.calls("onReset")) <= 1
    browser.open("about:blank")
    assert app.stop() == 0, app.log
    assert "Traceback" not in app.log, app.log


# Refused.

#: A topic, what to follow it with, and the status that it is refused with.
REFUSALS = [
    ("stock/tea", {"after": "malformed"}, 400),
    ("stock/tea", {}, 400),
    ("stock/tea", {}, 401),
    ("stock/login", {}, 401),  # a redirect
    ("stock/tea", {}, 403),
    ("nothing/known", {}, 404),
    ("stock/tea", {}, 404),
]


def stays_refused(page: Page, topic: str, status: int) -> None:
    """Check that it has stopped for good, whatever happens."""
    until_same(lambda: (page.refusals(), [status]))
    assert page.state == "refused"
    page.app.set()
    before = page.app.seen["requested"].get(topic)
    page.browser.execute_script(
        "for (const name of ['online', 'pageshow']) dispatchEvent(new Event(name));"
        "document.dispatchEvent(new Event('visibilitychange')); window.refused = calls"
    )
    page.follow("orders/8").until_live()  # what would have been sent by now, is sent before this
    assert page.app.seen["requested"].get(topic) == before
    refused = page.browser.execute_script("return refused")
    assert [values for name, *values in refused if name == "onRefused"] == [[{"status": status}]]
    assert [name for name, *_ in refused if name == "onReading"] == []
    page.browser.complaints()  # the browser notes each status
    page.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_refused(transport: str, page: Page) -> None:
    for topic, options, status in REFUSALS:
        with row((topic, options, status)):
            page.app.set(refused={"stock/tea": status} if not options else {})
            page.follow(topic, transports=[transport], **options)
            stays_refused(page, topic, status)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_withdrawn(transport: str, status: int, page: Page) -> None:
    """At a logout, what was followed ends."""
    app = page.app
    app.send("orders/9", 1)
    before = len(app.seen["transports"])
    page.follow("orders/9", transports=[transport]).until_live()
    eventually(lambda: transport in app.seen["transports"][before:])
    app.set(refused={"orders/9": status})
    eventually(lambda: app.http.post("/disconnect", {}).json["count"])
    expected = status if transport == "sse" else 401  # a stream ends without a reason
    until_same(lambda: (page.refusals(), [expected]))
    assert page.state == "refused"
    page.browser.complaints()


def test_closed_with_a_code_that_refuses(page: Page) -> None:
    for code, status in ((4400, 400), (4401, 401), (4403, 403), (4404, 404)):
        with row(code):
            page.follow("a", prefix=f"/scripted/{code}")
            stays_refused(page, str(code), status)
            assert page.app.seen["requested"][str(code)] == 1


def test_closed_with_another_code(page: Page) -> None:
    """It connects again, and again by WebSocket."""
    for code in map(str, (1000, 1001, 1008, 1009, 1011, 1012, 1013, 4000, 4402)):
        with row(code):
            page.follow("a", prefix=f"/scripted/{code}")
            eventually(lambda code=code: page.app.seen["requested"].get(code, 0) > 2)  # type: ignore[misc]
            assert page.refusals() == []
            page.close()
    page.browser.open("about:blank")


# Fallback.


@pytest.mark.parametrize(
    ("blocked", "used"),
    [
        (["websocket"], "sse"),
        (["text/event-stream"], "websocket"),
        (["websocket", "text/event-stream"], "longpoll"),
    ],
    ids=str,
)
def test_what_is_blocked_is_not_used(blocked: list[str], used: str, page: Page) -> None:
    app = page.app
    app.set(blocked=blocked)
    after = last(app, LOG)
    page.follow(LOG, after=after).until_live()
    app.send(LOG, 1)
    page.until_received(1)
    eventually(lambda: app.seen["transports"][-1:] == [used])
    assert page.refusals() == []
    page.browser.complaints()
    # What works is remembered.
    before = len(app.seen["transports"])
    page.follow(LOG, after=after).until_live()
    page.until_received(1)
    eventually(lambda: len(app.seen["transports"]) > before)
    assert set(app.seen["transports"][before:]) == {used}
    assert page.browser.complaints() == []


@pytest.mark.parametrize("interfere", [Connection.cut, Connection.stall])
def test_sockets_that_do_not_work_are_not_used(
    interfere: Callable[[Connection], None], browser: Browser, app: App
) -> None:
    """Something in between lets a WebSocket open, and then cuts it, or passes nothing on."""
    with Relay(app.port) as relay:
        page = Page(browser, app, port=relay.port)
        before = len(app.seen["transports"])
        page.follow(LOG, after=last(app, LOG))

        def is_stream() -> bool:
            if page.state == "live":
                for each in relay.naming("Upgrade: websocket"):
                    interfere(each)
            app.send(LOG, 1)
            browser.execute_script("dispatchEvent(new Event('online'))")  # it checks at once
            return "sse" in app.seen["transports"][before:]

        eventually(is_stream)
        app.send(LOG, 2)
        until_same(lambda: (page.numbers()[-1:], [2]))
        assert page.calls("onReset") == page.refusals() == []
        browser.open("about:blank")
        browser.complaints()


def test_a_server_that_is_away_does_not_change_the_transport(browser: Browser) -> None:
    app = App()
    page = Page(browser, app)
    page.follow(LOG).until_live()
    for _ in range(3):
        assert app.stop() == 0, app.log
        until_same(lambda: (page.state, "retrying"))
        app = App(port=app.port)
        page.until_live()
        eventually(lambda: app.seen["transports"])  # noqa: B023
        assert set(app.seen["transports"]) == {"websocket"}
    browser.open("about:blank")
    assert app.stop() == 0, app.log


# Errors.


def test_malformed_messages_are_skipped(page: Page) -> None:
    page.follow("a", prefix="/scripted/malformed")
    readings = "calls.filter(([name]) => name === 'onReading').map(([_, { value }]) => value)"
    until_same(lambda: (page.browser.execute_script(f"return {readings}"), ["well-formed"]))
    assert page.calls("onReset") == []
    page.browser.open("about:blank")


#: Follows with functions that fail, and one that closes.
FAILING = """
const [topic, after, transports, done] = arguments;
import("/push/push.js").then(({ follow }) => {
  window.calls = [];
  window.errors = [];
  addEventListener("error", (event) => { errors.push(event.message); event.preventDefault(); });
  window.following = follow(topic, { after, transports,
    onReading(reading) {
      calls.push(["onReading", reading]);
      if (reading.value.n === 3) following.close();
      throw new Error("the page's own");
    },
    onState() { throw new Error("the page's own"); },
  });
  done("");
}, (error) => done(String(error)));
"""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_pages_errors_are_the_pages(transport: str, page: Page) -> None:
    """They are reported, and nothing is missed; `close` ends it between two readings."""
    [after] = page.app.send(LOG, 0)
    page.app.send(LOG, 1, 2, 3, 4, 5)
    arguments = (LOG, after, [transport])
    assert page.browser.execute_async_script(FAILING, *arguments) == ""
    page.until_received(1, 2, 3)
    assert page.state == "stopped"
    assert page.browser.execute_script("return errors.length") >= 3 + 2
    page.app.send(LOG, 6)
    page.until_received(1, 2, 3)
    page.browser.complaints()
