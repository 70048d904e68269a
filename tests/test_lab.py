"""The lab: what a page's instruments are told, what they may do, and what nonsense does to them."""

import json
import os
import re
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count, pairwise
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from lab import instruments as lab
from lab.instruments import Lab
from lab.meter import Exchange
from lab.pace import PACES
from lab.settings import Settings
from pushlab.feed import Feed
from pushlab.limits import SHUTDOWN_TIMEOUT
from pushlab.websocket import connection as pushlab_connection
from tests.clients import (
    BINARY,
    CLOSE,
    TEXT,
    LabPage,
    RawSocket,
    Wire,
    frame,
)
from tests.conftest import PROGRAMS, Server, Start, eventually
from tests.test_connection import BareConnection
from tests.transports import sequence

#: For what takes seconds: one of the programs is enough.
once = pytest.mark.parametrize("program", PROGRAMS[:1], indirect=True)


@pytest.fixture
def page(server: Server) -> Iterator[LabPage]:
    with LabPage(server.ws) as page:
        yield page


def newest(server: Server) -> int:
    return sequence(server.http.get("/data").json["cursor"])


_numbers = count(1)


@pytest.fixture
def lane() -> str:
    """A lane that nobody had before."""
    return f"l{next(_numbers)}-lane"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


# What it tells.


def test_the_first_that_it_tells_is_who_it_is(server: Server, page: LabPage) -> None:
    epoch = server.http.get("/data").json["cursor"].partition("-")[0]
    about = {"epoch": epoch, "may_steer": True, "paces": []}
    assert page.next() == {"lab": about, "pace": "irregular"}


def test_it_tells_the_newest_reading_at_once_and_each_change(server: Server, page: LabPage) -> None:
    server.publish({"text": "€ <&> \u2028", "half": "\ud83d"})
    with LabPage(server.ws) as late:
        newest = server.http.get("/data").json
        for each in (page, late):
            reading = each.wait_for("reading", newest.__eq__)
            assert reading["value"] == {"text": "€ <&> \u2028", "half": "\ud83d"}
        for number in range(3):
            begun = time.monotonic()
            server.publish({"n": number})
            assert (
                page.wait_for("reading")
                == late.wait_for("reading")
                == server.http.get("/data").json
            )
            assert time.monotonic() - begun < 0.9, "it does not wait for a report"


@once
def test_it_reports_once_a_second(server: Server, page: LabPage) -> None:
    page.wait_for("meters")
    times = [time.monotonic()]
    for _ in range(4):
        assert page.wait_for("meters") == {}
        times.append(time.monotonic())
        server.publish({})  # which does not make it report more often
    gaps = [after - before for before, after in pairwise(times)]
    assert statistics.median(gaps) == pytest.approx(lab.REPORT_EVERY, abs=0.35)


@pytest.mark.parametrize("sent", [0, -1, 12345.678, 1e17, -1.5e-300, 2**53, 10**17 + 1])
def test_the_clock(server: Server, page: LabPage, sent: float) -> None:
    begun = time.time()
    page.do("clock", sent=sent)
    told = page.wait_for("clock")
    assert told["sent"] == sent
    assert begun - 0.001 <= told["at"] / 1000 <= time.time() + 0.001


@once
def test_every_exchange_is_told_once(server: Server, page: LabPage, lane: str) -> None:
    """However often a page asks, and over several reports."""
    asked = []
    with Wire(server.port) as wire:
        for round_ in range(30):
            answer = wire.request(get(f"/data?lane={lane}"))
            asked.append(float(answer.headers["Server-Timing"].split("=")[1].split(",")[0]))
            if round_ % 3 == 0:
                page.sums(lane)
            if round_ == 15:
                page.wait_for("meters")  # of itself
        assert page.sums(lane)["requests"] == 30
    page.wait_for("meters")
    assert [exchange[0] for exchange in page.exchanges[lane]] == asked
    assert {tuple(exchange[2:]) for exchange in page.exchanges[lane]} == {
        (200, len(get(f"/data?lane={lane}")), wire.received // 30)
    }


def test_each_page_is_told_of_all_its_lanes(server: Server, page: LabPage, lane: str) -> None:
    """Two pages that watch one lane are both told; one that comes later hears the sums again."""
    with LabPage(server.ws) as other, Wire(server.port) as wire:
        for _ in range(3):
            wire.request(get(f"/data?lane={lane}"))
            page.sums(lane)
        wire.request(get(f"/data?lane={lane}-2"))
        assert other.sums(f"{lane}-2")["requests"] == 1
        assert other.sums(lane) == page.sums(lane) == {
            "requests": 3, "empty": 0, "up": 3 * len(get(f"/data?lane={lane}")),
            "down": wire.received - other.exchanges[f"{lane}-2"][0][4],
        }  # fmt: skip
        assert other.exchanges[lane] == page.exchanges[lane]
        assert len(page.exchanges[lane]) == 3
        assert f"{lane}-2" not in page.exchanges
    with LabPage(server.ws) as again:
        assert again.sums(lane) == page.sums(lane)


def test_what_is_no_longer_watched_is_no_longer_told(
    server: Server, page: LabPage, lane: str
) -> None:
    page.do("watch", lanes=[lane, f"{lane}-2", lane])
    page.wait_for("meters", lambda meters: set(meters) == {lane, f"{lane}-2"})
    page.do("watch", lanes=[])
    page.wait_for("meters", lambda meters: meters == {})
    assert page.wait_for("meters") == {}


# Nonsense.

NONSENSE: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "the message"),
    "word": ("nonsense", "the message"),
    "half": ('{"do":"clock",', "the message"),
    "two": ('{"do":"clock","sent":1}{}', "the message"),
    "bom": ('\ufeff{"do":"clock","sent":1}', "the message"),
    "single-quotes": ("{'do':'clock','sent':1}", "the message"),
    "nul": ("\0", "the message"),
    "surrogates": ('{"do":"\\ud800"}', "do:"),
    "null": ("null", "do:"),
    "true": ("true", "do:"),
    "number": ("1", "do:"),
    "text": ('"clock"', "do:"),
    "list": ('["do","clock"]', "do:"),
    "object": ("{}", "do:"),
    "no-do": ('{"sent":1}', "do:"),
    "unknown-do": ('{"do":"reboot"}', "do:"),
    "do-null": ('{"do":null}', "do:"),
    "do-number": ('{"do":1}', "do:"),
    "do-list": ('{"do":["clock"]}', "do:"),
    "do-object": ('{"do":{"do":"clock"}}', "do:"),
    "do-of-python": ('{"do":"__class__"}', "do:"),
    "do-in-capitals": ('{"do":"CLOCK","sent":1}', "do:"),
    "deep": ("[" * 2000, "the message"),
    "deep-objects": ('{"a":' * 400, "the message"),
    "clock-without": ('{"do":"clock"}', "sent:"),
    "clock-null": ('{"do":"clock","sent":null}', "sent:"),
    "clock-true": ('{"do":"clock","sent":true}', "sent:"),
    "clock-text": ('{"do":"clock","sent":"1"}', "sent:"),
    "clock-list": ('{"do":"clock","sent":[1]}', "sent:"),
    "clock-nan": ('{"do":"clock","sent":NaN}', "sent:"),
    "clock-infinity": ('{"do":"clock","sent":Infinity}', "sent:"),
    "clock-less": ('{"do":"clock","sent":-Infinity}', "sent:"),
    "clock-overflow": ('{"do":"clock","sent":1e999}', "sent:"),
    "clock-huge": (f'{{"do":"clock","sent":{10**400}}}', "sent:"),
    "clock-less-than-huge": (f'{{"do":"clock","sent":-{10**1900}}}', "sent:"),
    "watch-without": ('{"do":"watch"}', "lanes:"),
    "watch-text": ('{"do":"watch","lanes":"a-b"}', "lanes:"),
    "watch-object": ('{"do":"watch","lanes":{"a":"b"}}', "lanes:"),
    "watch-numbers": ('{"do":"watch","lanes":[1]}', "lanes:"),
    "watch-lists": ('{"do":"watch","lanes":[["a"]]}', "lanes:"),
    "watch-no-name": ('{"do":"watch","lanes":[""]}', "lanes:"),
    "watch-bad-name": ('{"do":"watch","lanes":["a","a b"]}', "lanes:"),
    "watch-line-feed": ('{"do":"watch","lanes":["a\\n"]}', "lanes:"),
    "watch-not-ascii": ('{"do":"watch","lanes":["\u0665"]}', "lanes:"),
    "watch-long-name": (f'{{"do":"watch","lanes":["{"a" * 17}"]}}', "lanes:"),
    "watch-many": (json.dumps({"do": "watch", "lanes": [f"l{n}" for n in range(17)]}), "lanes:"),
    "cut-without": ('{"do":"cut"}', "lane:"),
    "cut-unwatched": ('{"do":"cut","lane":"a-b"}', "lane:"),
    "cut-list": ('{"do":"cut","lane":["a"]}', "lane:"),
    "cut-object": ('{"do":"cut","lane":{"a":1}}', "lane:"),
    "cut-number": ('{"do":"cut","lane":1e400}', "lane:"),
    "cut-surrogate": ('{"do":"cut","lane":"\\ud800"}', "lane:"),
    "cut-long": (json.dumps({"do": "cut", "lane": "a" * 1900}), "lane:"),
    "cut-deep": ('{"do":"cut","lane":' + "[" * 900 + "]" * 900 + "}", "lane:"),
    "binary": (b"\x00\xff\xfe", "the message"),
    "binary-utf-16": ('{"do":"reboot"}'.encode("utf-16"), "do:"),
    "binary-not-utf-8": (b'{"do":"\xff"}', "the message"),
    "large": (" " * 2049, "a message of 2049 bytes"),
    "large-in-bytes": ("€" * 683, "a message of 2049 bytes"),
    "large-binary": (bytes(60_000), "a message of 60000 bytes"),
    "largest": ("x" * 65536, "a message of 65536 bytes"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_named_and_the_lab_goes_on(server: Server, page: LabPage, name: str) -> None:
    nonsense, says = NONSENSE[name]
    errors = [each["error"] for each in page.replies(nonsense) if "error" in each]
    assert len(errors) == 1
    assert errors[0].startswith(says)
    assert len(errors[0]) < 200
    assert errors * 3 == [
        each["error"] for each in page.replies(nonsense, nonsense, nonsense) if "error" in each
    ]


def test_no_depth_is_too_deep(server: Server, page: LabPage) -> None:
    """Also at the depth at which reading it just succeeds and saying it again might not."""
    for depth in range(880, 1001):
        nest = "[" * depth + "]" * depth
        for text in (f'{{"do":{nest}}}', f'{{"do":"cut","lane":{nest}}}', f'{{"sent":{nest}}}'):
            if len(text) <= lab.MAX_CONTROL:
                [error] = [each["error"] for each in page.replies(text) if "error" in each]
                assert len(error) < 200


def test_as_many_lanes_as_allowed(server: Server, page: LabPage) -> None:
    lanes = [f"{'a' * 16}-{'b' * 16}-{number:016}" for number in range(lab.MAX_LANES)]
    page.do("watch", lanes=lanes)
    page.wait_for("meters", lambda meters: set(meters) == set(lanes))
    assert not [message for message in page.received if "error" in message]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x" * 65537), 1009),
        (frame(BINARY, length=2**40), 1009),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, b"{}", masked=False), 1002),
        (frame(TEXT, b"{}", reserved=1), 1002),
        (frame(CLOSE, b"\x0f\xa0bye"), 4000),
    ],
    ids=["too-large", "far-too-large", "not-utf-8", "unmasked", "reserved", "close"],
)
def test_what_ends_one_lab_ends_no_other(
    server: Server, page: LabPage, data: bytes, code: int
) -> None:
    with RawSocket(server.port, "/lab") as other:
        assert "lab" in other.json()
        other.send(data)
        assert other.close_code() == code
    assert page.clock()


def test_who_leaves_in_the_middle_of_a_message_ends_no_other(server: Server, page: LabPage) -> None:
    for part in (b"", b"\x81", frame(TEXT, b"x" * 100)[:-50], frame(TEXT, b"{", fin=False)):
        with RawSocket(server.port, "/lab", early=part) as other:
            assert "lab" in other.json()
    assert page.clock()


def test_a_page_that_reads_nothing_holds_nobody_up(start: Start) -> None:
    server = start("serve.py", "--source", "http")
    with RawSocket(server.port, "/lab", receive_buffer=4096) as silent, LabPage(server.ws) as page:
        for number in range(400):  # more than the buffers hold
            newest = server.publish({"text": f"{number:5}{'x' * 16_000}"})
        silent.send(frame(TEXT, b"nonsense") * 1000)
        page.wait_for("reading", lambda reading: reading["cursor"] == newest)
        assert page.clock()
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < SHUTDOWN_TIMEOUT + 4  # it gets no longer than others
    assert server.log == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
LANE = st.sampled_from(["f1", "f1-poll", "f1-a-b", "", "a b", "f1-", "x" * 17])
WISHES = st.fixed_dictionaries(
    {"do": st.sampled_from(["clock", "watch", "cut", "change", "burst", "pace"]) | JSON},
    optional={
        "sent": st.floats() | st.integers() | st.sampled_from([10**400, -(10**999)]) | JSON,
        "lanes": st.lists(LANE, max_size=3) | JSON,
        "lane": LANE | JSON,
        "pace": st.sampled_from([*PACES, "every 90 s", "fast"]) | JSON,
        "other": JSON,
    },
)


def is_lane(name: object) -> bool:
    return isinstance(name, str) and bool(
        re.fullmatch("[0-9A-Za-z]{1,16}(-[0-9A-Za-z]{1,16}){0,2}", name)
    )


def is_fine(wish: Any, watched: list[str]) -> bool:
    """Say again what may be asked."""
    match wish:
        case {"do": "clock", "sent": int() | float() as sent}:
            return not isinstance(sent, bool) and abs(sent) < lab.HUGE
        case {"do": "watch", "lanes": list() as lanes}:
            return len(lanes) <= 16 and all(map(is_lane, lanes))
        case {"do": "cut", "lane": lane}:
            return lane in watched
        case {"do": "pace", "pace": str() as pace}:
            return pace in (*PACES, "every 90 s")
        case {"do": "change" | "burst"}:
            return True
    return False


def test_whatever_a_page_says_is_done_or_named(start: Start) -> None:
    server = start("serve.py", "--source", "clock", "--every", "90")
    more = int(os.environ.get("PUSHLAB_FUZZ", "0"))
    with LabPage(server.ws) as page, LabPage(server.ws) as other:
        watched: list[str] = []

        @settings(
            max_examples=200 * max(more, 1), derandomize=not more, deadline=None, database=None,
            print_blob=True,
        )  # fmt: skip
        @given(st.lists(WISHES | JSON, min_size=1, max_size=5))
        def say(wishes: list[Any]) -> None:
            nonlocal watched
            texts = [json.dumps(wish) for wish in wishes]
            refused = 0
            for wish, text in zip(wishes, texts, strict=True):
                fine = len(text) <= lab.MAX_CONTROL and is_fine(wish, watched)
                refused += not fine
                if fine and wish["do"] == "watch":
                    watched = wish["lanes"]
            answers = page.replies(*texts)
            assert sum("error" in answer for answer in answers) == refused, answers

        say()
        assert other.clock()
    assert server.log == ""


# How it ends.


def test_labs_are_closed_when_the_server_stops(start: Start, program: str) -> None:
    server = start(program, "--source", "clock", "--every", "0.05")
    with ExitStack() as stack:
        pages = [stack.enter_context(LabPage(server.ws)) for _ in range(5)]
        for page in pages:
            page.wait_for("reading")
        begun = time.monotonic()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        for page in pages:
            with suppress(ConnectionClosed):
                while page.next():
                    pass
            assert page.socket.close_code == 1001
        stopping.join()
    assert server.process.returncode == 0
    assert time.monotonic() - begun < 4
    assert server.log == ""


def test_no_more_pages_than_there_is_room_for(start: Start) -> None:
    """One too many is told to try again later, and has room as soon as another one leaves."""
    server = start("serve.py", "--source", "http")
    with ExitStack() as stack:
        pages = [stack.enter_context(RawSocket(server.port, "/lab")) for _ in range(lab.MAX_PAGES)]
        for page in pages:
            assert "lab" in page.json()
        with RawSocket(server.port, "/lab") as late:
            assert late.close_code() == 1013
        pages[0].send(frame(CLOSE))
        assert pages[0].close_code() is None

        def has_room() -> bool:
            with RawSocket(server.port, "/lab") as late:
                return late.frame() is not None and late.frame() is not None

        eventually(has_room)
    assert server.http.get("/data").status == 200


def test_of_pages_that_leave_nothing_stays(start: Start) -> None:
    server = start("serve.py", "--source", "clock", "--every", "0.05")
    process = psutil.Process(server.process.pid)

    def come_and_go() -> None:
        with ExitStack() as stack:
            for number in range(50):
                page = stack.enter_context(RawSocket(server.port, "/lab"))
                page.send(frame(TEXT, b'{"do":"watch","lanes":["a","l%d"]}' % number))
                if number % 2:
                    page.json()

    files = process.num_fds()
    for _ in range(15):  # what is needed once, not once per page; and Python collects late
        come_and_go()
    before = server.memory
    for _ in range(10):
        come_and_go()
    eventually(lambda: process.num_fds() <= files)
    assert (server.memory - before) / 500 < 10_000, "bytes per page"
    assert server.log == ""


# With native threads, without gevent.


class Peer(RawSocket):
    """The page's end of a conversation whose handshake is thought to be done."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._reader = sock.makefile("rb")


def test_native_threads_tell_every_exchange_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads report to one page while four others are answered."""
    monkeypatch.setattr(lab, "REPORT_EVERY", 0.001)
    feed = Feed()
    instruments = Lab(feed, Settings(source="http"), freeze=time.sleep)
    instruments.meters.are_counting = True
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    page = Peer(theirs)

    def converse() -> None:
        with suppress(pushlab_connection.ConnectionClosed):
            instruments.converse(BareConnection(ours), {})

    conversing = threading.Thread(target=converse)
    conversing.start()
    watch = frame(TEXT, b'{"do":"watch","lanes":["busy"]}') + frame(
        TEXT, b'{"do":"clock","sent":1}'
    )
    told: list[int] = []
    answered = threading.Semaphore(100)  # not more than are kept until they are told

    def be_answered(worker: int) -> None:
        for number in range(500):
            answered.acquire()
            meter = instruments.meters["busy"]
            exchange = Exchange(meter, up=1, abort=lambda: None)
            exchange.responds(200)
            exchange.sent(worker * 1000 + number)
            exchange.closed()

    def be_published() -> None:
        while len(told) < 2000:
            feed.publish({})

    page.send(watch)
    threads = [threading.Thread(target=be_answered, args=(worker,)) for worker in range(4)]
    threads.append(threading.Thread(target=be_published))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while len(told) < 2000 and time.monotonic() < deadline:
            message = page.json()
            if "clock" in message:
                page.send(watch)
            for exchange in message.get("meters", {}).get("busy", {}).get("exchanges", []):
                told.append(exchange[4])
                answered.release()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(told) == [worker * 1000 + number for worker in range(4) for number in range(500)]
    for thread in threads:
        thread.join(5)
    feed.close()
    page.close()
    conversing.join(5)
    ours.close()
