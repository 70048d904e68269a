"""The controls of a page: what they do to all pages, to a lane, and who may touch them."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from typing import Any

import psutil
import pytest
import trustme

from lab import instruments as lab
from lab.pace import PACES
from pushlab.wsgi import access
from tests.clients import (
    UPGRADE,
    CountingTLS,
    LabPage,
    LabPageOverTLS,
    RawSocket,
    Response,
    Wire,
)
from tests.conftest import PROGRAMS, Server, Start, eventually, starting
from tests.transports import CLIENTS, Browser, sequence

STEERING = ("change", "burst", "pace", "freeze")


@pytest.fixture
def page(server: Server) -> Iterator[LabPage]:
    with LabPage(server.ws) as page:
        yield page


@pytest.fixture(scope="module", params=["clock", "load"])
def paced(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose data changes at a pace that pages set; it begins paused."""
    with starting() as start:
        server = start("serve.py", "--source", request.param)
        with LabPage(server.ws) as page:
            set_pace(page, "paused")
        eventually(lambda: newest(server))  # its first reading may be under way
        yield server


@pytest.fixture
def steering(paced: Server) -> Iterator[LabPage]:
    """A page of that server; in the end it pauses again."""
    with LabPage(paced.ws) as page:
        yield page
        set_pace(page, "paused")


def set_pace(page: LabPage, name: str) -> None:
    page.do("pace", pace=name)
    page.wait_for("pace", name.__eq__)


def newest(server: Server) -> int:
    return sequence(server.http.get("/data").json["cursor"])


def is_number(wanted: int) -> Callable[[Any], bool]:
    """Tell of a reading whether it is this one."""
    return lambda reading: sequence(reading["cursor"]) == wanted


_numbers = count(1)


@pytest.fixture
def lane() -> str:
    """A lane that nobody had before."""
    return f"l{next(_numbers)}-lane"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_a_paced_source_has_paces(paced: Server, steering: LabPage) -> None:
    first = steering.next()
    assert first["lab"]["paces"] == ["4 per s", "1 per s", "irregular", "paused"] == list(PACES)
    assert first["pace"] == "paused"


PACE_NONSENSE = ["null", "1", '"fast"', '""', '"4 PER S"', "0.25", "Infinity", "[]", '["paused"]',
                 '{"paused":1}', '"every 0.25 s"']  # fmt: skip


@pytest.mark.parametrize("pace", [*PACE_NONSENSE, ""], ids=[*PACE_NONSENSE, "missing"])
def test_an_unknown_pace_is_named(paced: Server, steering: LabPage, pace: str) -> None:
    field = f',"pace":{pace}' if pace else ""
    [error] = [
        each["error"] for each in steering.replies(f'{{"do":"pace"{field}}}') if "error" in each
    ]
    assert error == "pace: none of 4 per s, 1 per s, irregular, paused"


# The controls.


def test_change_makes_a_reading_at_once(paced: Server, steering: LabPage) -> None:
    before, took = newest(paced), []
    for number in (1, 2, 3):
        begun = time.monotonic()
        steering.do("change")
        steering.wait_for("reading", is_number(before + number))
        took.append(time.monotonic() - begun)
    assert sorted(took)[1] < 0.5, took
    assert newest(paced) == before + 3


def test_what_has_no_pace_is_told_again_when_it_is_to_change(server: Server, page: LabPage) -> None:
    cursor = server.publish({"n": "the same"})
    page.do("change")
    reading = page.wait_for("reading", is_number(sequence(cursor) + 1))
    assert reading["value"] == {"n": "the same"}
    page.do("burst")
    last = sequence(cursor) + 1 + lab.BURST
    page.wait_for("reading", is_number(last))
    assert newest(server) == last


def test_a_burst_is_fifty_changes_and_everybody_comes_to_know_the_last(
    paced: Server, steering: LabPage
) -> None:
    before = newest(paced)
    browsers = [open_(paced) for open_ in CLIENTS.values()]
    for browser in browsers:
        browser.receive()
    begun = time.monotonic()
    steering.do("burst")
    for browser in browsers:
        while sequence(browser.receive()["cursor"]) != before + lab.BURST:
            pass
    assert time.monotonic() - begun < 10
    steering.wait_for("reading", is_number(before + lab.BURST))
    assert newest(paced) == before + lab.BURST, "and then it is paused again"
    for browser in browsers:
        browser.close()


def test_a_pace_holds_at_once_and_for_all(paced: Server, steering: LabPage) -> None:
    with LabPage(paced.ws) as other:
        assert other.next()["pace"] == "paused"
        set_pace(steering, "4 per s")  # it waits for ever at that moment
        times = [steering.wait_for("reading")["changed_at"] for _ in range(6)][1:]
        gaps = sorted(after - before for before, after in pairwise(times))
        assert gaps[0] > 0.24
        assert gaps[0] < 0.5, "one of them at least comes in time, however busy the machine"
        other.wait_for("pace", "4 per s".__eq__)


def test_nothing_changes_while_it_is_paused(paced: Server, steering: LabPage) -> None:
    set_pace(steering, "4 per s")
    set_pace(steering, "paused")
    steering.clock()
    before = newest(paced)
    steering.wait_for("meters")
    assert newest(paced) - before <= 1, "one may have been under way"


@pytest.mark.parametrize("name", PACES)
def test_every_pace_can_be_set(paced: Server, steering: LabPage, name: str) -> None:
    set_pace(steering, name)
    assert not [message for message in steering.received if "error" in message]
    with LabPage(paced.ws) as other:
        assert other.next()["pace"] == name


def test_the_pace_that_was_asked_for_is_one_of_them(start: Start) -> None:
    server = start("serve.py", "--source", "clock", "--every", "0.3")
    with LabPage(server.ws) as page:
        first = page.next()
        assert first["pace"] == "every 0.3 s"
        assert first["lab"]["paces"] == ["every 0.3 s", *PACES]
        set_pace(page, "paused")
        set_pace(page, "every 0.3 s")
        times = [page.wait_for("reading")["changed_at"] for _ in range(6)][1:]
        gaps = [after - before for before, after in pairwise(times)]
        assert min(gaps) == pytest.approx(0.3, abs=0.15), "one at least comes in time"


def test_a_source_with_a_pace_of_its_own_keeps_it(server: Server, page: LabPage) -> None:
    page.do("pace", pace="paused")
    assert page.wait_for("error").startswith("pace:")
    assert page.clock()


def test_frozen_for_five_seconds_and_then_all_goes_on(start: Start) -> None:
    server = start("serve.py", "--source", "http")
    before = server.publish({"n": 1})
    opened = [open_(server, after=before) for open_ in CLIENTS.values()]
    polls: list[threading.Thread] = []
    told: list[Any] = []

    def hear(browser: Browser) -> None:
        told.append(browser.receive(timeout=20))

    with LabPage(server.ws) as page, LabPage(server.ws) as other:
        for browser in opened:
            poll = threading.Thread(target=hear, args=(browser,))
            poll.start()
            polls.append(poll)
        page.do("freeze")
        page.do("freeze")  # clicked again, while nothing moves
        assert page.wait_for("frozen") == lab.FREEZE
        begun = time.monotonic()
        while time.monotonic() - begun < 0.1:
            other.next()  # the rest of what it said before
        assert server.http.get("/data").status == 200
        assert lab.FREEZE - 0.3 < time.monotonic() - begun < lab.FREEZE + 3
        assert page.wait_for("error") == "freeze: the server has only just thawed"
        assert all(poll.is_alive() for poll in polls)
        newest = server.publish({"n": 2})
        for poll in polls:
            poll.join(10)
        assert told == [{"cursor": newest}] * len(opened)
        for each in (page, other):
            each.wait_for("reading", lambda reading: reading["cursor"] == newest)
            assert each.clock()
    for browser in opened:
        browser.close()


# Cutting a lane.


class Lines:
    """A lane of each transport with a connection open, waiting for news."""

    def __init__(self, server: Server, page: LabPage, name: str, after: str, **wrap: Any) -> None:
        self.lanes = [f"{name}-{transport}" for transport in ("websocket", "sse", "longpoll")]
        path = f"/update?after={after}&lane={self.lanes[0]}"
        self.browser = RawSocket(server.port, path, **wrap)
        self.stream, self.poll = Wire(server.port, **wrap), Wire(server.port, **wrap)
        accept = "Accept: text/event-stream\r\n\r\n"
        text = get(f"/update?after={after}&lane={self.lanes[1]}").decode()
        self.stream.socket.sendall(text.replace("\r\n\r\n", f"\r\n{accept}").encode())
        assert self.stream.head()[0] == 200
        self.stream.until(b"\n\n\r\n")
        self.text = get(f"/update?after={after}&lane={self.lanes[2]}")
        self.poll.socket.sendall(self.text)
        eventually(lambda: all(page.sums(lane)["up"] for lane in self.lanes))

    def hear(self, cursor: str) -> None:
        """All are told."""
        assert self.browser.json() == {"cursor": cursor}
        assert cursor in self.stream.until(b"\n\n\r\n").decode()
        assert self.poll.response().json == {"cursor": cursor}

    def find_the_end(self) -> None:
        """All have been hung up on, without a word."""
        assert self.browser.frame() is None
        assert self.stream.rest() == self.poll.rest() == b""

    def close(self) -> None:
        for each in (self.browser, self.stream, self.poll):
            each.close()


def ask(server: Server, path: str) -> Response | None:
    """Ask once; None if hung up on."""
    with Wire(server.port) as wire:
        try:
            return wire.request(get(path))
        except AssertionError:
            return None


def test_a_lane_that_is_cut_is_dropped_and_no_other(
    server: Server, page: LabPage, lane: str
) -> None:
    before = server.publish({"n": 1})
    cut, left = (Lines(server, page, f"{lane[:-5]}{letter}", before) for letter in "ab")
    for name in cut.lanes:
        page.do("cut", lane=name)
    cut.find_the_end()
    newest = server.publish({"n": 2})
    left.hear(newest)

    # What was not answered is no request, and what came back was nothing.
    [websocket, stream, poll] = [page.sums(name) for name in cut.lanes]
    assert poll == {"requests": 0, "empty": 0, "up": len(cut.text), "down": 0}
    assert (websocket["requests"], stream["requests"]) == (1, 1)
    assert stream["down"] == cut.stream.received
    for name in left.lanes:
        assert page.sums(name)["requests"] == 1
    for lines in (cut, left):
        lines.close()


def test_a_lane_is_cut_over_tls_too(
    start: Start, authority: trustme.CA, certificate: tuple[str, str]
) -> None:
    server = start("serve.py", "--source", "clock", "--every", "90", "--certfile", certificate[0],
                   "--keyfile", certificate[1])  # fmt: skip
    context = ssl.create_default_context()
    context.sslsocket_class = CountingTLS
    authority.configure_trust(context)

    def tls(plain: socket.socket) -> ssl.SSLSocket:
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    with LabPageOverTLS(server.ws, context=context) as page:
        before = page.wait_for("reading", lambda it: sequence(it["cursor"]) > 0)["cursor"]
        cut, left = (Lines(server, page, name, before, wrap=tls) for name in "ab")
        for name in cut.lanes:
            page.do("cut", lane=name)
        cut.find_the_end()
        page.do("change")
        left.hear(page.wait_for("reading", lambda reading: reading["cursor"] != before)["cursor"])
        for lines in (cut, left):
            lines.close()
    assert server.log == ""


@pytest.mark.parametrize("program", PROGRAMS[:1], indirect=True)
def test_a_lane_that_was_cut_is_hung_up_on_for_two_seconds(
    server: Server, page: LabPage, lane: str
) -> None:
    """And then it comes back, with nothing lost; what others ask is answered all the time."""
    before = server.publish({"n": 1})
    with Wire(server.port) as kept:
        assert kept.request(get(f"/data?lane={lane}")).status == 200
        page.sums(lane)
        begun = time.monotonic()
        page.do("cut", lane=lane)
        page.clock()
        newest = server.publish({"n": 2})
        assert kept.request(get(f"/data?lane={lane}-2")).status == 200, "it was not the lane's then"
        kept.socket.sendall(get(f"/data?lane={lane}"))
        assert kept.rest() == b""
    for path in (f"/data?lane={lane}", f"/update?lane={lane}&after={before}"):
        assert ask(server, path) is None
    with socket.create_connection(("127.0.0.1", server.port), 5) as browser:
        upgrade = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        text = get(f"/update?lane={lane}&after={before}").decode()
        browser.sendall(text.replace("\r\n\r\n", f"\r\n{upgrade}\r\n").encode())
        assert browser.recv(100) == b""
    assert page.sums(lane)["requests"] == 1
    answer = eventually(lambda: ask(server, f"/update?lane={lane}&after={before}"), timeout=5)
    assert 1.9 < time.monotonic() - begun < 4
    assert (answer.status, answer.json) == (200, {"cursor": newest})
    assert page.sums(lane)["requests"] == 2


def test_a_lane_can_be_cut_again_and_again(server: Server, page: LabPage, lane: str) -> None:
    for _ in range(20):
        page.sums(lane)
        page.do("cut", lane=lane)
    assert page.clock()


# Rights.


def steer_in_vain(server: Server, page: LabPage) -> None:
    """All controls that others would notice are refused; what a page has for itself is not."""
    before = newest(server)
    for control in STEERING:
        page.do(control, pace="4 per s")
        assert page.wait_for("error").startswith("only this machine may steer")
    assert newest(server) == before
    with Wire(server.port) as wire:
        wire.socket.sendall(get(f"/update?after={cursor(server)}&lane=own"))
        eventually(lambda: page.sums("own")["up"])
        page.do("cut", lane="own")
        assert wire.rest() == b""


def cursor(server: Server) -> str:
    return str(server.http.get("/data").json["cursor"])


def steer(server: Server, page: LabPage) -> None:
    before = newest(server)
    page.do("change")
    eventually(lambda: newest(server) == before + 1)
    assert not [message for message in page.received if "error" in message]


FORWARDED = [
    {"X-Forwarded-For": "192.0.2.1"},
    {"X-Forwarded-For": ""},
    {"Forwarded": "for=192.0.2.1"},
    {"Via": "1.1 proxy"},
    {"X-Real-IP": "192.0.2.1"},
    {"X-Forwarded-Host": "pushlab.example"},
    {"x-forwarded-for": "127.0.0.1"},
]


def test_who_is_on_this_machine_may_steer_and_nobody_else(start: Start) -> None:
    server = start("serve.py", "--source", "http", "--allow-host", "pushlab.test")
    for host in ("127.0.0.1", "localhost"):
        with LabPage(f"ws://{host}:{server.port}") as page:
            assert page.wait_for("lab")["may_steer"] is True
            steer(server, page)
    for headers in FORWARDED:
        with LabPage(server.ws, additional_headers=headers) as page:
            assert page.wait_for("lab")["may_steer"] is False
            steer_in_vain(server, page)
    plain = socket.create_connection(("127.0.0.1", server.port), 5)
    with LabPage(f"ws://pushlab.test:{server.port}", sock=plain) as page:
        assert page.wait_for("lab")["may_steer"] is False
        steer_in_vain(server, page)


def test_controls_for_all(start: Start) -> None:
    server = start("serve.py", "--source", "http", "--controls")
    for headers in ({}, *FORWARDED):
        with LabPage(server.ws, additional_headers=headers) as page:
            assert page.wait_for("lab")["may_steer"] is True
            steer(server, page)


def test_controls_for_nobody(start: Start, program: str) -> None:
    server = start(program, "--source", "http", "--no-controls")
    with LabPage(server.ws) as page:
        assert page.wait_for("lab")["may_steer"] is False
        steer_in_vain(server, page)


def own_addresses() -> list[str]:
    """Return the addresses of this machine that are not loopback, if it has any."""
    found = [each for each in psutil.net_if_addrs().values() for each in each]
    return [
        each.address
        for each in found
        if each.family == socket.AF_INET and not each.address.startswith("127.")
    ]


def test_who_comes_by_an_address_that_others_can_reach_may_not_steer(start: Start) -> None:
    """Also from this machine: what does not come over loopback may have come from anywhere."""
    server = start("serve.py", "--source", "clock", "--every", "90", "--host", "0.0.0.0")
    for host, may_steer in [("127.0.0.1", True), *((each, False) for each in own_addresses())]:
        with LabPage(f"ws://{host}:{server.port}") as page:
            assert page.wait_for("lab")["may_steer"] is may_steer
            (steer if may_steer else steer_in_vain)(server, page)


@pytest.mark.parametrize(
    ("environ", "local"),
    [
        ({}, True),
        ({"REMOTE_ADDR": "127.8.9.10"}, True),
        ({"REMOTE_ADDR": "::1", "HTTP_HOST": "[::1]:5000"}, True),
        ({"HTTP_HOST": "localhost:5000"}, True),
        ({"HTTP_HOST": "lab.localhost"}, True),
        ({"HTTP_HOST": "127.0.0.2:80"}, True),
        ({"REMOTE_ADDR": "192.0.2.1"}, False),
        ({"REMOTE_ADDR": "10.0.0.1", "HTTP_HOST": "10.0.0.1:5000"}, False),
        ({"REMOTE_ADDR": "0.0.0.0"}, False),
        ({"REMOTE_ADDR": "fe80::1%eth0"}, False),
        ({"REMOTE_ADDR": "::"}, False),
        ({"REMOTE_ADDR": ""}, False),
        ({"REMOTE_ADDR": None}, False),
        ({"REMOTE_ADDR": "localhost"}, False),
        ({"REMOTE_ADDR": "127.0.0.1, 192.0.2.1"}, False),
        ({"HTTP_HOST": "pushlab.test"}, False),
        ({"HTTP_HOST": "192.0.2.1:5000"}, False),
        ({"HTTP_HOST": ""}, False),
        ({"HTTP_HOST": None}, False),
        ({"HTTP_HOST": "127.0.0.1.evil.example"}, False),
        ({"HTTP_FORWARDED": "for=127.0.0.1"}, False),
        ({"HTTP_VIA": ""}, False),
        ({"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, False),
    ],
    ids=repr,
)
def test_who_is_local(environ: dict[str, str | None], local: bool) -> None:
    whole = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "127.0.0.1:5000", **environ}
    given = {name: value for name, value in whole.items() if value is not None}
    assert access.is_loopback_request(given) is local


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", ""])
def test_a_page_from_elsewhere_has_no_lab(server: Server, origin: str) -> None:
    answer = server.http.get("/lab", headers={**UPGRADE, "Origin": origin})
    assert answer.status == 403
    assert "origin" in answer.json["error"]


def test_our_own_page_has_one(server: Server) -> None:
    with LabPage(server.ws, origin=server.url) as page:
        assert page.wait_for("lab")["may_steer"] is True


def test_the_lab_is_a_websocket(server: Server) -> None:
    for headers in ({}, {"Accept": "text/event-stream"}):
        answer = server.http.get("/lab", headers=headers)
        assert (answer.status, answer.json) == (400, {"error": "/lab is a WebSocket"})
