"""The tutorial: each stage shows its fault, and the next stage repairs it."""

import json
import re
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from difflib import SequenceMatcher
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import psutil
import pytest

from bench.servers import free_port
from tests.browsing import Browser
from tests.clients import CLOSE, RawSocket, Response
from tests.conftest import ROOT, Program, Server, eventually, until_same
from tests.hosting import BIN
from tests.redis_server import RedisServer

TUTORIAL = ROOT / "docs" / "tutorial"
NUMBERS = range(1, 12)

FLASK_RUN = str(ROOT / "tests" / "flask_run.py")
FORM = "application/x-www-form-urlencoded"
LONG = " " * 15_999  #: makes a text as long as the feed allows
#: Bytes that Linux keeps, at most, for a connection whose browser does not read.
MOST_BUFFERED = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])


def program(number: int, *, solution: bool = False) -> Path:
    """Return the path of a stage's program, or of its solution."""
    folder = TUTORIAL / f"stage{number:02}"
    return folder / "exercise" / "solution.py" if solution else folder / f"{folder.name}.py"


class Asked:
    """A request, and as much of its response as has come."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = connection.makefile("rb")
        self._is_begun = False

    @property
    def is_waiting(self) -> bool:
        """True if nothing has come yet."""
        return not self._is_begun and not select.select([self.connection], [], [], 0)[0]

    def line(self, start: str) -> str:
        """Read on to a line that starts so; return its rest."""
        self._is_begun = True
        while not (line := self._reader.readline().decode()).startswith(start):
            assert line, "the response has ended"
        return line.removeprefix(start).strip()

    @property
    def status(self) -> int:
        """Read the status line."""
        return int(self.line("HTTP/1.1 ")[:3])

    def json(self) -> Any:
        """Read the rest of the response."""
        size = int(self.line("Content-Length: "))
        while self._reader.readline().strip():
            pass
        return json.loads(self._reader.read(size))

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
        self.connection.close()


class Stage(Server):
    """A stage on Flask's own server."""

    def __init__(
        self, number: int, *, solution: bool = False, port: int = 0, seconds: float = 3600,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        path, port = program(number, solution=solution), port or free_port()
        pythonpath = str(ROOT) if number > 5 else ""
        Program.__init__(
            self, FLASK_RUN, str(seconds), "--app", path.stem, "run", "-p", str(port),
            folder=ROOT / path.parent, environment={"PYTHONPATH": pythonpath, **environment},
        )  # fmt: skip
        self.is_at(f"http://127.0.0.1:{port}")
        self.page = "/match/final" if number > 8 else "/"
        self._asked: list[Asked] = []
        eventually(lambda: self.responds(self.page))

    def stop(self) -> int:
        """End it, and what was asked of it."""
        for asked in self._asked:
            asked.close()
        return super().stop() if self.process.poll() is None else 0

    def ask(self, path: str, **headers: str) -> Asked:
        """Send a GET request; return once the server has nothing to do but to wait."""
        return self._ask(self.send_get(path, *(f"{name}: {headers[name]}" for name in headers)))

    def start_to_say(self, text: str) -> Asked:
        """Send the page's form; return once the server has responded, or can only wait."""
        connection, body = self.open_socket(), urlencode({"text": text})
        head = f"POST {self.page} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {FORM}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        if select.select([connection], [], [], 1)[0]:
            self._asked.append(Asked(connection))
            return self._asked[-1]
        return self._ask(connection)

    def _ask(self, connection: socket.socket) -> Asked:
        self._asked.append(Asked(connection))
        self.until_idle()
        return self._asked[-1]

    def say(self, text: str, page: str = "", **headers: str) -> Response:
        """Send a page's form."""
        body = urlencode({"text": text}).encode()
        headers |= {"Content-Type": FORM}
        return self.http.request("POST", page or self.page, body, headers=headers)

    def connect(self, *, sleeps: bool = False) -> RawSocket:
        """Open the WebSocket of stages 6 to 8, and read the first text.

        With hardly any room at its side for more, if it is to sleep.
        """
        opened = self.websocket("/news", receive_buffer=4096 if sleeps else 0)
        assert text_of(opened) == "The match begins."
        self.until_idle()
        return opened

    def follow(self, *topics: str, login: Mapping[str, str] = MappingProxyType({})) -> RawSocket:
        """Follow topics over a WebSocket."""
        path = "&".join(["/push/update?carry=1", *(f"topic={topic}" for topic in topics)])
        return self.websocket(path, changes=login)

    def log_in(self) -> dict[str, str]:
        """Return the header with the cookie of a login."""
        response = self.http.post("/login", b"")
        assert response.status == 302, self.log
        return {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}

    @property
    def threads(self) -> int:
        """Threads of the server while it waits."""
        self.until_idle()
        return int(psutil.Process(self.process.pid).num_threads())


def text_of(opened: RawSocket) -> str:
    """Read the next text that a stage has sent."""
    found = opened.frame()
    assert found, "the connection has ended"
    message = found[1].decode()
    value = json.loads(message)["value"]["text"] if message.startswith("{") else message
    return str(value).strip()


def read_to(opened: RawSocket, last: str) -> list[str]:
    """Read on to this text; return all that were read."""
    texts = [text_of(opened)]
    while texts[-1] != last:
        texts.append(text_of(opened))
    return texts


Start = Callable[..., Stage]


@pytest.fixture
def start_stage() -> Iterator[Start]:
    """Start stages."""
    started: list[Stage] = []

    def start(number: int, **options: Any) -> Stage:
        started.append(Stage(number, **options))
        return started[-1]

    yield start
    for stage in started:
        stage.stop()
        assert "Traceback" not in stage.log, stage.log


# The programs.


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stage_is_short(number: int) -> None:
    source = program(number).read_text()
    assert len([line for line in source.splitlines() if line]) <= 40
    needs = {"flask", "werkzeug"} | ({"pushlab"} if number > 5 else set())
    imported = set(re.findall(r"^(?:from|import) (\w+)", source, re.M))
    assert imported - sys.stdlib_module_names <= needs


@pytest.mark.parametrize("number", NUMBERS[1:])
def test_a_stage_is_a_change_of_the_one_before(number: int) -> None:
    """A third of its lines are there already; half of a solution's lines are its stage's."""
    for other, new, share in (
        (program(number - 1), program(number), 1 / 3),
        (program(number), program(number, solution=True), 1 / 2 if number < 11 else 0),
    ):
        old_lines, lines = (
            [line for line in path.read_text().splitlines() if line] for path in (other, new)
        )
        blocks = SequenceMatcher(None, old_lines, lines, autojunk=False).get_matching_blocks()
        assert sum(block.size for block in blocks) >= share * len(lines), new


# The faults, and their repairs.


def test_a_reload_brings_the_whole_page_for_nothing_and_a_poll_304(start_stage: Start) -> None:
    reload, poll = start_stage(1), start_stage(2)
    pages = [reload.http.get("/") for _ in range(2)]
    assert pages[0].body == pages[1].body
    assert b"The match begins." in pages[1].body
    first = poll.http.get("/news")
    assert first.json == {"text": "The match begins."}
    known = {"If-None-Match": first.headers["ETag"]}
    again = poll.http.get("/news", headers=known)
    assert (again.status, again.body) == (304, b"")
    poll.say("Goal!")
    assert poll.http.get("/news", headers=known).json == {"text": "Goal!"}


TYPED = "document.querySelector('input').value"
SUBMIT = "document.querySelector('form').requestSubmit()"


def until_shown(browser: Browser, text: str) -> None:
    """Wait until the page shows this text."""
    shown = "return document.querySelector('h1')?.textContent"
    until_same(lambda: (browser.execute_script(shown), text))


def until_following(stage: Stage, browser: Browser) -> None:
    """Wait until the page shows what is said, whatever was lost before."""
    shown = "return document.querySelector('h1')?.textContent"
    eventually(lambda: stage.say("ready") and browser.execute_script(shown) == "ready")
    stage.until_idle()


def test_a_reload_takes_what_is_being_typed_and_a_poll_does_not(
    start_stage: Start, browser: Browser
) -> None:
    for number, is_kept in ((1, False), (2, True)):
        stage = start_stage(number)
        browser.open(stage.url)
        browser.execute_script(f"window.isFirst = true; {TYPED} = 'Go'")
        stage.say("Kick-off")
        until_shown(browser, "Kick-off")
        assert bool(browser.execute_script("return window.isFirst")) == is_kept
        assert browser.execute_script(f"return {TYPED}") == ("Go" if is_kept else "")


def test_a_poll_asks_in_vain_and_a_long_poll_waits(start_stage: Start) -> None:
    poll = start_stage(2)
    etag = poll.http.get("/news").headers["ETag"]
    for _ in range(3):
        assert poll.ask("/news", **{"If-None-Match": etag}).status == 304
    long_poll = start_stage(3)
    asked = long_poll.ask("/news")
    assert asked.is_waiting
    long_poll.say("Goal!")
    assert asked.json() == {"text": "Goal!"}


@pytest.mark.parametrize(
    ("number", "solution", "is_lost"), [(3, False, True), (3, True, True), (4, False, False)]
)
def test_what_is_said_between_two_requests(
    start_stage: Start, number: int, solution: bool, is_lost: bool
) -> None:
    """The lost wake-up; an event for each request, which is exercise 3, loses it, too."""
    stage = start_stage(number, solution=solution)
    asked = stage.ask("/news?after=1")  # stage 3 does not look at `after`
    stage.say("Goal!")
    news = asked.json()
    assert news["text"] == "Goal!"
    stage.say("Offside.")  # before the browser asks again
    asked = stage.ask(f"/news?after={news.get('number')}")
    assert asked.is_waiting == is_lost
    if is_lost:
        stage.say("Half-time.")
    assert asked.json()["text"] == ("Half-time." if is_lost else "Offside.")


def test_a_long_poll_needs_a_request_for_each_text_and_a_stream_one_for_all(
    start_stage: Start,
) -> None:
    texts = ["Goal!", "Offside.", "Half-time."]
    long_poll, stream = start_stage(4), start_stage(5)
    for number, text in enumerate(texts, start=1):
        asked = long_poll.ask(f"/news?after={number}")
        long_poll.say(text)
        assert asked.json() == {"number": number + 1, "text": text}
    events = stream.ask("/news")
    assert events.line("data: ") == '{"text": "The match begins."}'
    for text in texts:
        stream.say(text)
        assert json.loads(events.line("data: ")) == {"text": text}
    until_same(lambda: (long_poll.log.count("GET /news"), len(texts)))
    # After its connection was lost, the browser says the last id that it has.
    again = stream.ask("/news", **{"Last-Event-ID": "3"})
    assert again.line("id: ") == "4"
    assert json.loads(again.line("data: ")) == {"text": "Half-time."}


POST = "fetch('/', { method: 'POST', body: new URLSearchParams({ text: arguments[0] }) })"


def test_a_browser_has_six_connections_for_streams_and_more_websockets(
    start_stage: Start, browser: Browser
) -> None:
    """With six streams open, the page cannot even say anything."""
    opened = {5: "new EventSource('/news')", 6: "new WebSocket(`ws://${location.host}/news`)"}
    for number, one in opened.items():
        stage = start_stage(number)
        browser.open(stage.url)
        browser.execute_script(f"window.all = Array.from({{ length: 5 }}, () => {one})")
        eventually(lambda: browser.execute_script("return all.every((it) => it.readyState === 1)"))
        until_following(stage, browser)  # the page's own is the sixth
        browser.execute_script(POST, "from the page")
        if number == 5:
            stage.say("from elsewhere")
            until_shown(browser, "from elsewhere")
            browser.execute_script("all[0].close()")
        until_shown(browser, "from the page")


def test_one_slow_browser_makes_all_wait(start_stage: Start) -> None:
    stage = start_stage(6)
    with stage.connect(sleeps=True) as sleeper, stage.connect() as reader:
        for number in count():
            saying = stage.start_to_say(f"{number}{LONG}")
            if saying.is_waiting:  # all buffers on the way to the sleeper are full
                break
            assert text_of(reader) == str(number)
        assert not select.select([reader.socket], [], [], 0)[0]
        assert read_to(sleeper, str(number))[-1] == str(number)  # it wakes up: all goes on
        assert saying.status == 204
        assert text_of(reader) == str(number)


@pytest.mark.parametrize(
    ("number", "solution", "longest", "skipped"),
    [(7, False, 50, 0), (7, True, 1, 50), (8, False, 0, 200)],
)
def test_with_queues_nobody_waits_but_old_texts_pile_up(
    start_stage: Start, number: int, solution: bool, longest: int, skipped: int
) -> None:
    """With a queue of one text, which is exercise 7, or with the hub, they are skipped.

    `longest` and `skipped` are how many texts are in a queue, and how many are skipped, at least.
    """
    stage = start_stage(number, solution=solution)
    said = MOST_BUFFERED // len(LONG) + 60
    with stage.connect(sleeps=True) as sleeper, stage.connect() as reader:
        for each in range(said):
            assert stage.say(f"{each}{LONG}").status == 204
            assert text_of(reader) == str(each)
        texts = read_to(sleeper, str(said - 1))
    lengths = [0]
    while number == 7 and len(lengths) <= said:
        line = eventually(lambda: stage.out and stage.out.pop(0))
        lengths += [json.loads(line[8:])[0]] if line.startswith("queued: ") else []
    assert max(lengths) == longest or max(lengths) > longest == 50
    assert said - len(texts) == skipped or said - len(texts) > skipped > 0


def test_a_queue_needs_a_thread_and_the_hub_none(start_stage: Start) -> None:
    for number, threads in ((7, 5), (8, 0)):
        stage = start_stage(number)
        with stage.connect(), ExitStack() as stack:
            before = stage.threads
            for _ in range(5):
                stack.enter_context(stage.connect())
            assert stage.threads == before + threads


def test_with_one_feed_everybody_gets_everything(start_stage: Start) -> None:
    everything, topics = start_stage(8), start_stage(9)
    with everything.connect() as browser:
        everything.say("Semifinal: goal!")
        everything.say("Final: goal!")
        assert [text_of(browser) for _ in range(2)] == ["Semifinal: goal!", "Final: goal!"]
    with topics.follow("match/final") as browser:
        assert browser.json()["value"] == {"text": "The match final begins."}
        topics.say("Goal!", "/match/semifinal")
        topics.say("Offside.", "/match/final")
        assert browser.json()["value"] == {"text": "Offside."}


def test_a_page_comes_back_after_a_restart_with_push_js(
    start_stage: Start, browser: Browser
) -> None:
    for number, comes_back in ((8, False), (9, True)):
        stage = start_stage(number)
        browser.open(stage.url + stage.page)
        stage.say("Goal!")
        until_shown(browser, "Goal!")
        stage.stop()
        eventually(lambda: any(name == "webSocketClosed" for name, _ in browser.network_log()))
        stage = start_stage(number, port=stage.port)
        stage.say("Offside.")
        if comes_back:
            until_shown(browser, "Offside.")
        opened = [name for name, _ in browser.network_log() if name == "webSocketCreated"]
        assert (len(opened) > 1) == comes_back
        assert browser.find("h1").text == ("Offside." if comes_back else "Goal!")


def test_without_a_login_all_may_follow(start_stage: Start) -> None:
    with start_stage(9).follow("match/final") as browser:
        assert browser.status == 101
    stage = start_stage(10)
    with stage.follow("match/final") as browser:
        assert browser.status == 401
    hers, his = stage.log_in(), stage.log_in()
    with (
        stage.follow("match/final", login=hers) as logged_out,
        stage.follow("match/final", login=his) as other,
    ):
        for browser in (logged_out, other):
            assert browser.json()["value"] == {"text": "The match final begins."}
        assert stage.http.post("/logout", b"", headers=hers).status == 302
        stage.say("Goal!")
        assert other.json()["value"] == {"text": "Goal!"}
        closed = logged_out.frame()  # and no text before it
        assert closed
        assert (closed[0], int.from_bytes(closed[1][:2], "big")) == (CLOSE, 4401)


@pytest.mark.parametrize(("solution", "status"), [(False, 101), (True, 401)])
def test_a_copied_cookie_after_the_logout(start_stage: Start, solution: bool, status: int) -> None:
    """Exercise 10."""
    stage = start_stage(10, solution=solution)
    login = stage.log_in()
    assert stage.say("Goal!", **login).status == 204
    stage.http.post("/logout", b"", headers=login)
    with stage.follow("match/final", login=login) as copied:
        assert copied.status == status
    assert stage.say("Offside.", **login).status == (204 if status == 101 else 401)


def test_two_processes(start_stage: Start, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    shared = {"REDIS_URL": redis.url, "SECRET_KEY": "the same"}
    try:
        for number, environment in ((10, {}), (11, shared)):
            one, other = (start_stage(number, environment=environment) for _ in range(2))
            login = one.log_in()
            with other.follow("match/final", login=login) as browser:
                assert browser.status == (101 if environment else 401)
            logins = [login, login] if environment else [login, other.log_in()]
            with (
                one.follow("match/final", login=logins[0]) as here,
                other.follow("match/final", login=logins[1]) as there,
            ):
                for browser in (here, there):
                    assert browser.json()["value"] == {"text": "The match final begins."}
                one.say("Goal!")
                other.say("Offside.")
                texts = ["Goal!", "Offside."]
                if environment:  # a state: who is quick gets both, and each gets the newest
                    for browser in (here, there):
                        while browser.json()["value"] != {"text": texts[-1]}:
                            pass
                    one.http.post("/logout", b"", headers=login)
                    assert [each.close_code() for each in (here, there)] == [4401, 4401]
                else:
                    assert [each.json()["value"]["text"] for each in (here, there)] == texts
        exercise_11(other, shared)
    finally:
        redis.stop()


def exercise_11(stage: Stage, environment: Mapping[str, str]) -> None:
    """A program without Flask says something."""
    with stage.follow("match/final", login=stage.log_in()) as browser:
        assert browser.json()["value"] == {"text": "Offside."}
        announce = Program(
            "docs/tutorial/stage11/exercise/solution.py", "Full time.", environment=environment
        )
        assert announce.wait() == 0, announce.log
        assert browser.json()["value"] == {"text": "Full time."}


# The page of a program, in a real browser.


def test_the_wrong_page_shows_what_it_gets(start_stage: Start, browser: Browser) -> None:
    """It may lose a text; the next one comes."""
    stage = start_stage(3)
    browser.open(stage.url)
    until_following(stage, browser)


def check_page(stage: Stage, browser: Browser) -> None:
    """Open its page in two tabs; each shows what the other says, as text."""
    browser.open(stage.url + stage.page)
    with_login = bool(browser.find_all("[formaction='/login']"))
    if with_login:
        until_shown(browser, "Log in first.")
        browser.find("[formaction='/login']").click()
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    second = browser.current_window_handle
    browser.get(stage.url + stage.page)
    for tab in (first, second):
        browser.switch_to.window(tab)
        until_following(stage, browser)
    for said, shown in ((first, second), (second, first)):
        text = f"<b>from</b> {said}"
        browser.switch_to.window(said)
        browser.execute_script(f"{TYPED} = arguments[0]; {SUBMIT}", text)
        browser.switch_to.window(shown)
        until_shown(browser, text)
    if with_login:
        browser.find("[formaction='/logout']").click()
    browser.switch_to.window(second)
    if with_login:
        until_shown(browser, "Log in first.")
    browser.get("about:blank")  # Chromium does not close a page that is just being loaded again
    browser.close()
    browser.switch_to.window(first)


# What else a stage does, and the solutions of the exercises.


def test_a_wait_ends_after_some_seconds(start_stage: Start) -> None:
    """The browser asks again; a stream goes on with a comment."""
    for number in (3, 4):
        assert start_stage(number, seconds=0.1).http.get("/news?after=1").status == 204
    stream = Asked(start_stage(5, seconds=0.1).send_get("/news"))
    assert stream.line(": ") == "nothing new"
    stream.close()


def test_how_often_the_page_was_loaded(start_stage: Start) -> None:
    stage = start_stage(1, solution=True)
    first, second = (stage.http.get("/").body for _ in range(2))
    assert b"Loaded 1 times" not in second
    times = [int(re.findall(rb"Loaded (\d+) times", body)[0]) for body in (first, second)]
    assert times[1] == times[0] + 1


def test_how_many_polls_were_in_vain(start_stage: Start) -> None:
    stage = start_stage(2, solution=True)
    known = {"If-None-Match": stage.http.get("/news").headers["ETag"]}
    for _ in range(3):
        stage.http.get("/news", headers=known)
    assert stage.http.get("/count").json == {"200": 1, "304": 3}


#: The texts of a list in the page.
ITEMS = "return [...document.querySelectorAll('li')].map((item) => item.textContent)"


def test_a_long_poll_brings_all_that_was_missed(start_stage: Start, browser: Browser) -> None:
    stage = start_stage(4, solution=True)
    for text in ("Goal!", "Offside."):
        stage.say(text)
    assert stage.http.get("/news?after=1").json == {"number": 3, "texts": ["Goal!", "Offside."]}
    assert len(stage.http.get("/news?after=7").json["texts"]) == 3  # it was restarted
    browser.open(stage.url)
    stage.say("Half-time.")
    texts = ["The match begins.", "Goal!", "Offside.", "Half-time."]
    until_same(lambda: (browser.execute_script(ITEMS), texts))


def test_each_stream_has_a_thread(start_stage: Start) -> None:
    """Until the server has found out that the browser is gone."""
    stage = start_stage(5, solution=True, seconds=0.5)

    def threads() -> int:
        stage.until_idle()  # threads of earlier requests have ended
        return int(stage.http.get("/threads").body)

    before = threads()
    streams = [stage.ask("/news") for _ in range(3)]
    assert all(stream.line("data: ") for stream in streams)
    assert threads() == before + 3
    for stream in streams:
        stream.close()
    until_same(lambda: (threads(), before))


def test_the_browser_says_it_by_its_websocket(start_stage: Start, browser: Browser) -> None:
    stage = start_stage(6, solution=True)
    with stage.connect() as other:
        browser.open(stage.url)
        until_shown(browser, "The match begins.")
        eventually(
            lambda: any(each == "webSocketFrameReceived" for each, _ in browser.network_log())
        )
        browser.execute_script(f"{TYPED} = 'Goal!'; {SUBMIT}")
        assert text_of(other) == "Goal!"
        until_shown(browser, "Goal!")
    assert stage.log.count("POST") == 0


def test_the_hub_brings_what_was_missed(start_stage: Start, browser: Browser) -> None:
    stage = start_stage(8, solution=True)
    with stage.websocket("/news?after=") as opened:
        cursor = opened.json()["cursor"]
    for text in ("Goal!", "Offside."):
        stage.say(text)
    with stage.websocket(f"/news?after={cursor}") as opened:
        assert [text_of(opened) for _ in range(2)] == ["Goal!", "Offside."]
    browser.open(stage.url)
    texts = ["The match begins.", "Goal!", "Offside."]
    until_same(lambda: (browser.execute_script(ITEMS), texts))
    stage.stop()
    stage = start_stage(8, solution=True, port=stage.port)
    stage.say("Half-time.")
    until_same(lambda: (browser.execute_script(ITEMS), ["The match begins.", "Half-time."]))


def until_watching(browser: Browser, number: int) -> None:
    """Wait until the page says that so many are watching."""
    shown = "return document.querySelector('p').textContent"
    until_same(lambda: (browser.execute_script(shown), f"{number} watching"))


def test_how_many_watch(start_stage: Start, browser: Browser) -> None:
    stage = start_stage(9, solution=True)
    browser.open(stage.url + stage.page)
    until_watching(browser, 1)
    with stage.follow("match/final"):
        until_watching(browser, 2)
    until_watching(browser, 1)
    stage.say("Goal!")
    until_shown(browser, "Goal!")


def test_the_sleeper_and_the_flood(start_stage: Start) -> None:
    stage = start_stage(8)
    sleeper = Program("docs/tutorial/sleeper.py", str(stage.port), stdin=subprocess.PIPE)
    stage.until_idle()
    flood = Program("docs/tutorial/flood.py", str(stage.port))
    assert flood.wait() == 0, flood.log
    assert [line.partition(":")[0] for line in flood.out] == [
        f"{number} texts" for number in (100, 200, 300, 400)
    ]
    assert sleeper.process.stdin
    sleeper.process.stdin.write("\n")
    sleeper.process.stdin.flush()
    stage.until_idle()
    stage.stop()
    assert sleeper.wait() == 0, sleeper.log
    assert "bytes so far. The connection has ended." in sleeper.out[-1]


# What the pages say.


def blocks(number: int) -> list[tuple[str, list[str]]]:
    """Return a page's code blocks: the language, and the lines."""
    text = (program(number).parent / "index.rst").read_text()
    found = re.findall(r"^\.\. code:: (\w+)\n\n((?: {3}.*\n|\n)+)", text, re.M)
    return [
        (language, [each[3:] for each in body.splitlines() if each]) for language, body in found
    ]


class Typed(Program):
    """A command of a page, typed into a terminal of its own."""

    def __init__(self, command: str, folder: Path, servers: Mapping[str, Stage]) -> None:
        for port, stage in servers.items():
            command = command.replace(f":{port}", f":{stage.port}")
        command = command.replace("curl ", "curl -v ", 1)
        where = f"cd {folder} && PATH={BIN}:$PATH"
        super().__init__("-c", f"{where}; exec {command}", command=["sh"], stdin=subprocess.PIPE)
        self.servers = servers.values()
        eventually(self.is_done)
        for stage in self.servers:
            stage.until_idle()

    def is_done(self) -> bool:
        """Tell whether it has ended, or has sent its request."""
        return (
            self.process.poll() is not None or "Connected to" in self.text or "\n> \n" in self.log
        )

    @property
    def text(self) -> str:
        """Everything that it has printed."""
        ports = zip(("8000", "8001"), self.servers, strict=False)
        text = "".join(self.out).replace("\r", "")
        for port, stage in ports:
            text = text.replace(f":{stage.port}", f":{port}")
        return text

    def end(self) -> None:
        """End it, if it has not ended."""
        if self.process.returncode is None:
            self.process.kill()
            self.wait()


#: The parts of a page, in their order.
PARTS = [
    "Predict",
    "Touch the wire",
    "The program",
    "Break it",
    "What it still gets wrong",
    "Exercise",
]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_page_has_all_its_parts(number: int) -> None:
    """And the difference to the next stage is made from the programs."""
    text = (program(number).parent / "index.rst").read_text()
    last = "To the next stage" if number < 11 else "Where to go on"
    assert re.findall(r"^(.+)\n-+\n", text, re.M) == [*PARTS, last]
    assert f"\n   flask --app stage{number:02} run --port 8000\n" in text
    assert f"\n.. literalinclude:: stage{number:02}.py\n" in text
    assert "`exercise/solution.py <exercise/solution.py>`_" in text
    following = f"stage{number + 1:02}"
    diff = f"\n.. literalinclude:: ../{following}/{following}.py\n   :diff: stage{number:02}.py\n"
    assert (diff in text) == (number < 11)
    assert f"stage{number:02}/index.rst>`_" in (TUTORIAL / "index.rst").read_text()


#: Commands that another test runs, or that only install.
OTHER = re.compile(
    r"flask --app stage\d\d run --port 800[01]( --without-threads)?"
    r"|python \.\./(sleeper|flood)\.py"
    r"|pip install (\.\./\.\./\.\. websockets|redis python-dotenv)"
)


def is_in(line: str, typed: "list[Typed]") -> bool:
    """Tell whether a command has printed this."""
    return any(line in each.text for each in typed)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stage_does_what_its_page_says(
    start_stage: Start, browser: Browser, tmp_path: Path, number: int
) -> None:
    """Each command is typed, in its order; what the page shows then has been printed."""
    ports, environment = ["8000"], {}
    with ExitStack() as stack:
        if number == 11:
            redis = RedisServer(tmp_path)
            stack.callback(redis.stop)
            ports, environment = ["8000", "8001"], {"REDIS_URL": redis.url, "SECRET_KEY": "a text"}
        servers = {port: start_stage(number, environment=environment) for port in ports}
        typed: list[Typed] = []
        for language, lines in blocks(number):
            for line in lines:
                if language == "sh" and line.startswith(("curl ", "python -m websockets ")):
                    typed.append(Typed(line, tmp_path, servers))
                    stack.callback(typed[-1].end)
                elif language == "sh":
                    assert OTHER.fullmatch(line), line
                elif language == "text":
                    eventually(partial(is_in, line, typed))
        for each in typed if number == 10 else ():  # the logout has ended the stream
            assert each.wait() in (0, 18)  # 18: before it was complete
        if number != 3:  # which loses texts
            check_page(servers["8000"], browser)
