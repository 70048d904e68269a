"""The lab: its reports to a page, and what bad input to it does."""

import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from itertools import pairwise
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
from pushlab.websocket import connection as pushlab_connection
from tests.clients import (
    BINARY,
    CLOSE,
    HANG_TIMEOUT,
    TEXT,
    LabPage,
    RawSocket,
    Wire,
    frame,
)
from tests.conftest import Server, Start, eventually
from tests.hosting import with_limits
from tests.test_connection import BareConnection
from tests.transports import sequence


def newest(server: Server) -> int:
    return sequence(server.http.get("/data").json["cursor"])


def get(path: str, **headers: str) -> bytes:
    fields = {"Host": "localhost", **headers}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


# Reports.


def test_the_first_message_is_about_the_lab(server: Server, page: LabPage) -> None:
    epoch = server.http.get("/data").json["cursor"].partition("-")[0]
    about = {"epoch": epoch, "may_steer": True, "paces": []}
    assert page.next() == {"lab": about, "pace": "irregular", "resume": "irregular"}


def test_the_newest_reading_comes_at_once_and_so_does_each_change(
    start: Start,
) -> None:
    """They do not wait for a report."""
    server = start(
        "serve.py",
        "--source",
        "http",
        environment=with_limits(**{"lab.instruments.REPORT_INTERVAL": 3600}),
    )
    server.publish({"text": "€ <&> \u2028", "half": "\ud83d"})
    with LabPage(server.ws) as page, LabPage(server.ws) as late:
        newest = server.http.get("/data").json
        for each in (page, late):
            reading = each.wait_for("reading", newest.__eq__)
            assert reading["value"] == {"text": "€ <&> \u2028", "half": "\ud83d"}
        for number in range(3):
            server.publish({"n": number})
            reading = server.http.get("/data").json
            assert page.wait_for("reading") == late.wait_for("reading") == reading


def test_reports_come_once_a_second(server: Server, page: LabPage) -> None:
    begun = page.clock()
    for _ in range(5):
        assert page.wait_for("meters") == {}
        server.publish({})  # which causes no report
    assert page.clock() - begun >= 4 * 1000 * lab.REPORT_INTERVAL - 1


@pytest.mark.parametrize("sent", [0, -1, 12345.678, 1e17, -1.5e-300, 2**53, 10**17 + 1])
def test_the_clock(server: Server, page: LabPage, sent: float) -> None:
    begun = time.time()
    page.do("clock", sent=sent)
    clock = page.wait_for("clock")
    assert clock["sent"] == sent
    assert begun - 0.001 <= clock["at"] / 1000 <= time.time() + 0.001


def test_every_exchange_is_reported_once(server: Server, page: LabPage, lane: str) -> None:
    """However often a page asks for a report, and in whichever report it comes."""
    begun, received = [], [0]
    request = get(f"/data?lane={lane}")
    with Wire(server.port) as wire:
        for number in range(30):
            response = wire.request(request)
            received.append(wire.received)
            begun.append(float(response.headers["Server-Timing"].split("=")[1].split(",")[0]))
            if number % 3 == 0:
                page.sums(lane)
            if number == 15:
                page.wait_for("meters")  # one that the page has not asked for
        assert page.sums(lane)["requests"] == 30
    page.wait_for("meters")
    assert [exchange[0] for exchange in page.exchanges[lane]] == begun
    # Not all have the same size: a header says for how long they were held.
    assert [exchange[2:] for exchange in page.exchanges[lane]] == [
        [200, len(request), after - before] for before, after in pairwise(received)
    ]


def test_each_page_gets_the_reports_of_all_its_lanes(
    server: Server, page: LabPage, lane: str
) -> None:
    """Two pages may watch one lane; a third one that comes later gets the same sums."""
    request = get(f"/data?lane={lane}")
    with LabPage(server.ws) as other, Wire(server.port) as wire:
        for _ in range(3):
            wire.request(request)
            page.sums(lane)
        wire.request(get(f"/data?lane={lane}-2"))
        assert other.sums(f"{lane}-2")["requests"] == 1
        down = wire.received - other.exchanges[f"{lane}-2"][0][4]
        sums = {"requests": 3, "empty": 0, "up": 3 * len(request), "down": down}
        assert other.sums(lane) == page.sums(lane) == sums
        assert other.exchanges[lane] == page.exchanges[lane]
        assert len(page.exchanges[lane]) == 3
        assert f"{lane}-2" not in page.exchanges
    with LabPage(server.ws) as again:
        assert again.sums(lane) == sums


def test_a_page_watches_the_lanes_that_it_named_last(
    server: Server, page: LabPage, lane: str
) -> None:
    most = [f"{'a' * 16}-{'b' * 16}-{number:016}" for number in range(lab.MAX_LANES)]
    for lanes in ([lane, f"{lane}-2", lane], [], most):
        page.do("watch", lanes=lanes)
        page.clock()
        assert set(page.wait_for("meters")) == set(lanes)
    assert not [message for message in page.received if "error" in message]


# Bad input.

#: By the beginning of their error, messages that are rejected: JSON without spaces.
MESSAGES = {
    "do:": r"""null true 1 "clock" ["do","clock"] {} {"sent":1} {"do":"\ud800"} {"do":"reboot"}
        {"do":null} {"do":1} {"do":["clock"]} {"do":{"do":"clock"}} {"do":"__class__"}
        {"do":"CLOCK","sent":1}""",
    "sent:": """{"do":"clock"} {"do":"clock","sent":null} {"do":"clock","sent":true}
        {"do":"clock","sent":"1"} {"do":"clock","sent":[1]} {"do":"clock","sent":NaN}
        {"do":"clock","sent":Infinity} {"do":"clock","sent":-Infinity}
        {"do":"clock","sent":1e999}""",
    "lanes:": r"""{"do":"watch"} {"do":"watch","lanes":"a-b"} {"do":"watch","lanes":{"a":"b"}}
        {"do":"watch","lanes":[1]} {"do":"watch","lanes":[["a"]]} {"do":"watch","lanes":[""]}
        {"do":"watch","lanes":["a\n"]} {"do":"watch","lanes":["\u0665"]}""",
    "lane:": r"""{"do":"cut"} {"do":"cut","lane":"a-b"} {"do":"cut","lane":["a"]}
        {"do":"cut","lane":{"a":1}} {"do":"cut","lane":1e400} {"do":"cut","lane":"\ud800"}""",
}
#: And others.
ALSO: dict[str, list[str | bytes]] = {
    "do:": ['{"do":"reboot"}'.encode("utf-16")],
    "sent:": [f'{{"do":"clock","sent":{number}}}' for number in (10**400, -(10**1900))],
    "lanes:": [
        json.dumps({"do": "watch", "lanes": lanes})
        for lanes in (["a", "a b"], ["a" * 17], [f"l{number}" for number in range(17)])
    ],
    "lane:": [
        json.dumps({"do": "cut", "lane": "a" * 1900}),
        '{"do":"cut","lane":' + "[" * 900 + "]" * 900 + "}",
    ],
    "the message is not JSON": [
        "", "nonsense", '{"do":"clock",', '{"do":"clock","sent":1}{}', "[" * 2000, '{"a":' * 400,
        '\ufeff{"do":"clock","sent":1}', "{'do':'clock','sent':1}", "\0", b"\x00\xff\xfe",
        b'{"do":"\xff"}',
    ],
    "a message of 2049 bytes": [" " * 2049, "€" * 683],
    "a message of 60000 bytes": [bytes(60_000)],
    "a message of 65536 bytes": ["x" * 65536],
}  # fmt: skip


@pytest.mark.parametrize("beginning", ALSO)
def test_an_error_names_what_is_wrong_and_the_session_goes_on(
    server: Server, page: LabPage, beginning: str
) -> None:
    for message in (*MESSAGES.get(beginning, "").split(), *ALSO[beginning]):
        [error] = page.errors(message)
        assert error.startswith(beginning), message
        assert len(error) < 200
        assert page.errors(message, message, message) == [error] * 3


def test_no_depth_is_too_deep(server: Server, page: LabPage) -> None:
    """Also at the depth at which parsing just succeeds and encoding it again might not."""
    for depth in range(880, 1001):
        nest = "[" * depth + "]" * depth
        for text in (f'{{"do":{nest}}}', f'{{"do":"cut","lane":{nest}}}', f'{{"sent":{nest}}}'):
            if len(text) <= lab.MAX_COMMAND:
                [error] = page.errors(text)
                assert len(error) < 200


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
def test_what_closes_one_session_closes_no_other(
    server: Server, page: LabPage, data: bytes, code: int
) -> None:
    with RawSocket(server.port, "/lab") as other:
        assert "lab" in other.json()
        other.send(data)
        assert other.close_code() == code
    assert page.clock()


def test_a_connection_that_breaks_within_a_message_closes_no_other(
    server: Server, page: LabPage
) -> None:
    for part in (b"", b"\x81", frame(TEXT, b"x" * 100)[:-50], frame(TEXT, b"{", fin=False)):
        with RawSocket(server.port, "/lab", early=part) as other:
            assert "lab" in other.json()
    assert page.clock()


def test_a_page_that_reads_nothing_delays_no_other(start: Start) -> None:
    server = start("serve.py", "--source", "http")
    with RawSocket(server.port, "/lab", receive_buffer=4096) as silent, LabPage(server.ws) as page:
        for number in range(400):  # more than the buffers hold
            newest = server.publish({"text": f"{number:5}{'x' * 16_000}"})
        silent.send(frame(TEXT, b"nonsense") * 1000)
        page.wait_for("reading", lambda reading: reading["cursor"] == newest)
        assert page.clock()
        assert server.stop() == 0
    assert server.log == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
LANE = st.sampled_from(["f1", "f1-poll", "f1-a-b", "", "a b", "f1-", "x" * 17])
COMMANDS = st.fixed_dictionaries(
    {"do": st.sampled_from([each for each in lab.COMMANDS if each != "freeze"]) | JSON},
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


def is_valid(command: Any, watched: list[str]) -> bool:
    """The rules of the commands once more, independently."""
    match command:
        case {"do": "clock", "sent": int() | float() as sent}:
            return not isinstance(sent, bool) and abs(sent) < lab.MAX_TIME
        case {"do": "watch", "lanes": list() as lanes}:
            return len(lanes) <= lab.MAX_LANES and all(map(is_lane, lanes))
        case {"do": "cut", "lane": lane}:
            return lane in watched
        case {"do": "pace" | "borrow", "pace": str() as pace}:
            return pace in (*PACES, "every 90 s")
        case {"do": "change" | "burst" | "give_back"}:
            return True
    return False


def test_any_command_is_carried_out_or_rejected(start: Start) -> None:
    server = start("serve.py", "--source", "clock", "--every", "90")
    more = int(os.environ.get("PUSHLAB_FUZZ", "0"))
    with LabPage(server.ws) as page, LabPage(server.ws) as other:
        watched: list[str] = []

        @settings(
            max_examples=200 * max(more, 1), derandomize=not more, deadline=None, database=None,
            print_blob=True,
        )  # fmt: skip
        @given(st.lists(COMMANDS | JSON, min_size=1, max_size=5))
        def send(commands: list[Any]) -> None:
            nonlocal watched
            texts = [json.dumps(command) for command in commands]
            rejected = 0
            for command, text in zip(commands, texts, strict=True):
                valid = len(text) <= lab.MAX_COMMAND and is_valid(command, watched)
                rejected += not valid
                if valid and command["do"] == "watch":
                    watched = command["lanes"]
            errors = page.errors(*texts)
            assert len(errors) == rejected, errors

        send()
        assert other.clock()
    assert server.log == ""


# Shutdown, limits, and native threads.


def test_a_stopping_server_closes_all_sessions(start: Start) -> None:
    server = start("serve.py", "--source", "clock", "--every", "0.05")
    with ExitStack() as stack:
        pages = [stack.enter_context(LabPage(server.ws)) for _ in range(5)]
        for page in pages:
            page.wait_for("reading")
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        for page in pages:
            with suppress(ConnectionClosed):
                while page.next():
                    pass
            assert page.socket.close_code == 1001
        stopping.join()
    assert server.process.returncode == 0
    assert server.log == ""


def test_one_page_too_many_is_closed_with_1013(start: Start) -> None:
    """There is room for it as soon as another page closes."""
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


def test_closed_pages_leak_nothing(start: Start) -> None:
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


class PageEnd(RawSocket):
    """The page's end of a connection whose handshake is done."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._reader = sock.makefile("rb")


def test_native_threads_report_every_exchange_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads report to one page while four others finish exchanges."""
    monkeypatch.setattr(lab, "REPORT_INTERVAL", 0.001)
    feed = Feed()
    instruments = Lab(feed, Settings(source="http"), freeze=time.sleep)
    instruments.meters.are_counting = True
    ours, theirs = socket.socketpair()
    theirs.settimeout(HANG_TIMEOUT)
    page = PageEnd(theirs)

    def serve() -> None:
        with suppress(pushlab_connection.ConnectionClosed):
            instruments.serve(BareConnection(ours), {})

    serving = threading.Thread(target=serve)
    serving.start()
    watch = frame(TEXT, b'{"do":"watch","lanes":["busy"]}') + frame(
        TEXT, b'{"do":"clock","sent":1}'
    )
    reported: list[int] = []
    unreported = threading.Semaphore(100)  # fewer than a meter keeps

    def finish_exchanges(worker: int) -> None:
        for number in range(500):
            unreported.acquire()
            exchange = Exchange(instruments.meters.get("busy"), up=1, abort=lambda: None)
            exchange.responds(200)
            exchange.sent(worker * 1000 + number)
            exchange.closed()

    def publish() -> None:
        while len(reported) < 2000:
            feed.publish({})

    page.send(watch)
    threads = [threading.Thread(target=finish_exchanges, args=(worker,)) for worker in range(4)]
    threads.append(threading.Thread(target=publish))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        while len(reported) < 2000:
            message = page.json()
            if "clock" in message:
                page.send(watch)
            for exchange in message.get("meters", {}).get("busy", {}).get("exchanges", []):
                reported.append(exchange[4])
                unreported.release()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(reported) == [worker * 1000 + n for worker in range(4) for n in range(500)]
    for thread in threads:
        thread.join()
    feed.close()
    page.close()
    serving.join()
    ours.close()
