"""The controls of a page: what they do to all pages, what to a lane, and which pages may."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import psutil
import pytest

from lab import instruments as lab
from lab import meter
from lab.pace import PACES
from pushlab.wsgi import access
from tests.clients import (
    CLOSE,
    HANG_TIMEOUT,
    TEXT,
    UPGRADE,
    LabPage,
    LabPageOverTLS,
    RawSocket,
    Response,
    Wire,
    frame,
)
from tests.conftest import Server, Start, eventually, starting
from tests.hosting import with_limits
from tests.test_lab import get, newest
from tests.transports import CLIENTS, Browser, sequence

#: The commands that change what all pages see.
CONTROLS = ("change", "burst", "pace", "borrow", "freeze")


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
def controlling(paced: Server) -> Iterator[LabPage]:
    """A page of that server, which pauses the data again in the end."""
    with LabPage(paced.ws) as page:
        yield page
        set_pace(page, "paused")


def set_pace(page: LabPage, name: str) -> None:
    page.do("pace", pace=name)
    page.wait_for("pace", name.__eq__)


def is_number(wanted: int) -> Callable[[Any], bool]:
    """Return a function that tells whether a reading has this number."""
    return lambda reading: sequence(reading["cursor"]) == wanted


def test_a_paced_source_has_paces(paced: Server, controlling: LabPage) -> None:
    first = controlling.next()
    assert (
        first["lab"]["paces"]
        == ["20 per s", "4 per s", "1 per s", "irregular", "paused"]
        == list(PACES)
    )
    assert first["pace"] == "paused"


@pytest.mark.parametrize("do", ["pace", "borrow"])
@pytest.mark.parametrize(
    "pace",
    ["null", "1", '"fast"', '""', '"4 PER S"', "0.25", "Infinity", "[]", '["paused"]',
     '{"paused":1}', '"every 0.25 s"', "missing"],
)  # fmt: skip
def test_an_unknown_pace_is_rejected(
    paced: Server, controlling: LabPage, do: str, pace: str
) -> None:
    field = f',"pace":{pace}' if pace != "missing" else ""
    errors = controlling.errors(f'{{"do":"{do}"{field}}}')
    assert errors == ["pace: none of 20 per s, 4 per s, 1 per s, irregular, paused"]


# The controls.


def test_change_makes_a_reading_at_once(paced: Server, controlling: LabPage) -> None:
    before = newest(paced)
    for number in (1, 2, 3):  # else it would wait for ever
        controlling.do("change")
        controlling.wait_for("reading", is_number(before + number))
    assert newest(paced) == before + 3


def test_a_source_without_a_pace_publishes_its_value_again(server: Server, page: LabPage) -> None:
    cursor = server.publish({"n": "the same"})
    page.do("change")
    reading = page.wait_for("reading", is_number(sequence(cursor) + 1))
    assert reading["value"] == {"n": "the same"}
    page.do("burst")
    last = sequence(cursor) + 1 + lab.BURST
    page.wait_for("reading", is_number(last))
    assert newest(server) == last


def test_a_burst_is_fifty_changes_and_every_browser_receives_the_last(
    paced: Server, controlling: LabPage
) -> None:
    before = newest(paced)
    browsers = [open_(paced) for open_ in CLIENTS.values()]
    for browser in browsers:
        browser.receive()
    controlling.do("burst")
    for browser in browsers:
        while sequence(browser.receive()["cursor"]) != before + lab.BURST:
            pass
    controlling.wait_for("reading", is_number(before + lab.BURST))
    assert newest(paced) == before + lab.BURST, "and then it is paused again"
    for browser in browsers:
        browser.close()


def test_a_pace_holds_at_once_and_for_all(paced: Server, controlling: LabPage) -> None:
    with LabPage(paced.ws) as other:
        assert other.next()["pace"] == "paused"
        set_pace(controlling, "4 per s")  # while the source waits for ever
        times = [controlling.wait_for("reading")["changed_at"] for _ in range(6)][1:]
        assert min(after - before for before, after in pairwise(times)) > 0.24
        other.wait_for("pace", "4 per s".__eq__)


def test_nothing_changes_while_it_is_paused(paced: Server, controlling: LabPage) -> None:
    set_pace(controlling, "4 per s")
    set_pace(controlling, "paused")
    controlling.clock()
    before = newest(paced)
    controlling.wait_for("meters")
    assert newest(paced) - before <= 1, "one may have been under way"


@pytest.mark.parametrize("name", PACES)
def test_every_pace_can_be_set(paced: Server, controlling: LabPage, name: str) -> None:
    set_pace(controlling, name)
    assert not [message for message in controlling.received if "error" in message]
    with LabPage(paced.ws) as other:
        assert other.next()["pace"] == name


@pytest.mark.parametrize("end", ["give_back", "close", "reset", "nonsense"])
def test_a_pace_is_borrowed_while_its_page_is_connected(
    paced: Server, controlling: LabPage, end: str
) -> None:
    """Else a page that is closed during an experiment would leave its pace to all others."""
    set_pace(controlling, "irregular")
    set_pace(controlling, "paused")
    with RawSocket(paced.port, "/lab") as page:
        page.send(frame(TEXT, b'{"do":"borrow","pace":"20 per s"}'))
        controlling.wait_for("pace", "20 per s".__eq__)
        match end:
            case "give_back":
                page.send(frame(TEXT, b'{"do":"give_back"}'))
            case "close":
                page.send(frame(CLOSE, b""))
            case "reset":
                page.reset()
            case "nonsense":
                page.send(b"nonsense")
        controlling.wait_for("pace", "paused".__eq__)
        assert controlling.received[-1]["resume"] == "irregular"


def test_a_page_gives_back_only_what_it_borrowed(paced: Server, controlling: LabPage) -> None:
    with LabPage(paced.ws) as first, LabPage(paced.ws) as second:
        for page, name in ((first, "4 per s"), (second, "20 per s")):
            page.do("borrow", pace=name)
            page.wait_for("pace", name.__eq__)
        first.do("give_back")
        first.clock()  # an earlier report may have come meanwhile
        assert first.wait_for("pace") == "20 per s"
        set_pace(controlling, "1 per s")  # it is not borrowed any more
        second.do("give_back")
        second.clock()
        assert second.wait_for("pace") == "1 per s"


def test_the_pace_of_the_command_line_is_one_of_them(start: Start) -> None:
    server = start("serve.py", "--source", "clock", "--every", "0.3")
    with LabPage(server.ws) as page:
        first = page.next()
        assert first["pace"] == "every 0.3 s"
        assert first["lab"]["paces"] == ["every 0.3 s", *PACES]
        set_pace(page, "paused")
        set_pace(page, "every 0.3 s")
        times = [page.wait_for("reading")["changed_at"] for _ in range(6)][1:]
        assert min(after - before for before, after in pairwise(times)) > 0.29


def test_a_source_without_a_pace_has_none_to_set(server: Server, page: LabPage) -> None:
    for do in ("pace", "borrow"):
        error = page.errors(json.dumps({"do": do, "pace": "paused"}))
        assert error == ["pace: this source has none to set"]


def test_the_server_is_frozen_for_five_seconds(start: Start) -> None:
    server = start("serve.py", "--source", "http")
    before = server.publish({"n": 1})
    opened = [open_(server, after=before) for open_ in CLIENTS.values()]
    received: list[Any] = []

    def receive(browser: Browser) -> None:
        received.append(browser.receive())

    waiting = [threading.Thread(target=receive, args=(browser,)) for browser in opened]
    with LabPage(server.ws) as page, LabPage(server.ws) as other:
        for thread in waiting:
            thread.start()
        begun = other.clock()
        page.do("freeze")
        page.do("freeze")  # clicked again, while nothing moves
        assert page.wait_for("frozen") == lab.FREEZE
        assert server.http.get("/data").status == 200
        assert other.clock() - begun >= 1000 * lab.FREEZE
        assert page.wait_for("error") == "freeze: the server was frozen just now"
        assert all(thread.is_alive() for thread in waiting)
        newest = server.publish({"n": 2})
        for thread in waiting:
            thread.join()
        assert received == [{"cursor": newest}] * len(opened)
        for each in (page, other):
            each.wait_for("reading", lambda reading: reading["cursor"] == newest)
            assert each.clock()
    for browser in opened:
        browser.close()


# Cutting a lane.


class Lanes:
    """A lane of each transport with a connection open, waiting for news."""

    def __init__(self, server: Server, page: LabPage, name: str, after: str, **wrap: Any) -> None:
        self.names = [f"{name}-{transport}" for transport in ("websocket", "sse", "longpoll")]
        websocket, stream, poll = (f"/update?after={after}&lane={lane}" for lane in self.names)
        self.socket = RawSocket(server.port, websocket, **wrap)
        self.stream, self.poll = Wire(server.port, **wrap), Wire(server.port, **wrap)
        self.stream.socket.sendall(get(stream, Accept="text/event-stream"))
        assert self.stream.head()[0] == 200
        self.stream.until(b"\n\n\r\n")
        self.poll_request = get(poll)
        self.poll.socket.sendall(self.poll_request)
        eventually(lambda: all(page.sums(lane)["up"] for lane in self.names))

    def check_news(self, cursor: str) -> None:
        """Fail unless each receives a signal with this cursor."""
        assert self.socket.json() == {"cursor": cursor}
        assert cursor in self.stream.until(b"\n\n\r\n").decode()
        assert self.poll.response().json == {"cursor": cursor}

    def check_aborted(self) -> None:
        """Fail unless each connection ends with nothing more sent."""
        assert self.socket.frame() is None
        assert self.stream.rest() == self.poll.rest() == b""

    def close(self) -> None:
        for each in (self.socket, self.stream, self.poll):
            each.close()


def test_a_cut_aborts_the_lanes_connections_and_no_others(
    server: Server, page: LabPage, lane: str
) -> None:
    before = server.publish({"n": 1})
    cut, other = (Lanes(server, page, f"{lane[:-5]}{letter}", before) for letter in "ab")
    for name in cut.names:
        page.do("cut", lane=name)
    cut.check_aborted()
    other.check_news(server.publish({"n": 2}))

    # Without a response there was no request, and nothing was sent.
    [websocket, stream, poll] = [page.sums(name) for name in cut.names]
    assert poll == {"requests": 0, "empty": 0, "up": len(cut.poll_request), "down": 0}
    assert (websocket["requests"], stream["requests"]) == (1, 1)
    assert stream["down"] == cut.stream.received
    for name in other.names:
        assert page.sums(name)["requests"] == 1
    for lanes in (cut, other):
        lanes.close()


def test_a_cut_over_tls(
    start: Start, tls_options: tuple[str, ...], trust: ssl.SSLContext, counting_tls: Any
) -> None:
    server = start("serve.py", "--source", "clock", "--every", "90", *tls_options)
    with LabPageOverTLS(server.ws, context=trust) as page:
        before = page.wait_for("reading", lambda it: sequence(it["cursor"]) > 0)["cursor"]
        cut, other = (Lanes(server, page, name, before, wrap=counting_tls) for name in "ab")
        for name in cut.names:
            page.do("cut", lane=name)
        cut.check_aborted()
        page.do("change")
        other.check_news(page.wait_for("reading", lambda it: it["cursor"] != before)["cursor"])
        for lanes in (cut, other):
            lanes.close()
    assert server.log == ""


@pytest.mark.parametrize("seconds", [meter.CUT, 3600])
def test_a_lane_stays_cut(start: Start, seconds: float) -> None:
    """Then it works again, and no news is lost; other lanes get responses all the time."""
    server = start(
        "serve.py", "--source", "http", environment=with_limits(**{"lab.meter.CUT": seconds})
    )
    before = server.publish({"n": 1})
    update = f"/update?lane=cut&after={before}"
    with LabPage(server.ws) as page, Wire(server.port) as kept:
        assert kept.request(get("/data?lane=cut")).status == 200
        page.sums("cut")
        begun = page.clock()
        page.do("cut", lane="cut")
        page.clock()
        newest = server.publish({"n": 2})
        if seconds == meter.CUT:
            response = eventually(lambda: ask(server, get(update)))
            assert page.clock() - begun >= 1000 * seconds
            assert (response.status, response.json) == (200, {"cursor": newest})
            assert page.sums("cut")["requests"] == 2
            return
        assert kept.request(get("/data?lane=cut-2")).status == 200, "it was not the lane's then"
        kept.socket.sendall(get("/data?lane=cut"))
        assert kept.rest() == b""
        for request in (get("/data?lane=cut"), get(update), get(update, **UPGRADE)):
            assert ask(server, request) is None
        assert page.sums("cut")["requests"] == 1


def ask(server: Server, request: bytes) -> Response | None:
    """Return the response, or None if the server aborts the connection."""
    with Wire(server.port) as wire:
        wire.socket.sendall(request)
        try:
            return wire.response()
        except AssertionError:
            assert wire.rest() == b""
            return None


def test_a_lane_can_be_cut_again_and_again(server: Server, page: LabPage, lane: str) -> None:
    for _ in range(20):
        page.sums(lane)
        page.do("cut", lane=lane)
    assert page.clock()


# Rights.


def check_rights(server: Server, page: LabPage, *, may_control: bool) -> None:
    """Fail unless the page may, or may not, use the controls that others would notice."""
    assert page.wait_for("lab")["may_steer"] is may_control
    before = newest(server)
    if may_control:
        assert page.errors('{"do":"change"}') == []
        eventually(lambda: newest(server) == before + 1)
        return
    for control in CONTROLS:
        [error] = page.errors(json.dumps({"do": control, "pace": "4 per s"}))
        assert error.startswith("only a browser on the server's own machine")
    assert newest(server) == before
    with Wire(server.port) as wire:  # a lane of its own it may cut
        cursor = server.http.get("/data").json["cursor"]
        wire.socket.sendall(get(f"/update?after={cursor}&lane=own"))
        eventually(lambda: page.sums("own")["up"])
        page.do("cut", lane="own")
        assert wire.rest() == b""


FORWARDED = [
    {"X-Forwarded-For": "192.0.2.1"},
    {"X-Forwarded-For": ""},
    {"Forwarded": "for=192.0.2.1"},
    {"Via": "1.1 proxy"},
    {"X-Real-IP": "192.0.2.1"},
    {"X-Forwarded-Host": "pushlab.example"},
    {"x-forwarded-for": "127.0.0.1"},
]


def test_only_browsers_on_this_machine_may_control(start: Start) -> None:
    server = start("serve.py", "--source", "http", "--allow-host", "pushlab.test")
    for host in ("127.0.0.1", "localhost"):
        with LabPage(f"ws://{host}:{server.port}") as page:
            check_rights(server, page, may_control=True)
    for headers in FORWARDED:
        with LabPage(server.ws, additional_headers=headers) as page:
            check_rights(server, page, may_control=False)
    plain = socket.create_connection(("127.0.0.1", server.port), HANG_TIMEOUT)
    with LabPage(f"ws://pushlab.test:{server.port}", sock=plain) as page:
        check_rights(server, page, may_control=False)


@pytest.mark.parametrize(
    ("option", "may_control"), [("--controls", True), ("--no-controls", False)]
)
def test_controls_for_all_pages_or_none(start: Start, option: str, may_control: bool) -> None:
    server = start("serve.py", "--source", "http", option)
    for headers in ({}, *FORWARDED):
        with LabPage(server.ws, additional_headers=headers) as page:
            check_rights(server, page, may_control=may_control)


def test_an_address_that_other_machines_can_reach_gives_no_rights(start: Start) -> None:
    """Also from this machine: what does not come over loopback may have come from anywhere."""
    addresses = [
        (each.address, False)
        for interface in psutil.net_if_addrs().values()
        for each in interface
        if each.family == socket.AF_INET and not each.address.startswith("127.")
    ]
    server = start("serve.py", "--source", "clock", "--every", "90", "--host", "0.0.0.0")
    for host, may_control in [("127.0.0.1", True), *addresses]:
        with LabPage(f"ws://{host}:{server.port}") as page:
            check_rights(server, page, may_control=may_control)


@pytest.mark.parametrize(
    ("local", "environs"),
    [
        (True, [
            {}, {"REMOTE_ADDR": "127.8.9.10"}, {"REMOTE_ADDR": "::1", "HTTP_HOST": "[::1]:5000"},
            {"HTTP_HOST": "localhost:5000"}, {"HTTP_HOST": "lab.localhost"},
            {"HTTP_HOST": "127.0.0.2:80"},
        ]),
        (False, [
            {"REMOTE_ADDR": "192.0.2.1"}, {"REMOTE_ADDR": "10.0.0.1", "HTTP_HOST": "10.0.0.1:5000"},
            {"REMOTE_ADDR": "0.0.0.0"}, {"REMOTE_ADDR": "fe80::1%eth0"}, {"REMOTE_ADDR": "::"},
            {"REMOTE_ADDR": ""}, {"REMOTE_ADDR": None}, {"REMOTE_ADDR": "localhost"},
            {"REMOTE_ADDR": "127.0.0.1, 192.0.2.1"}, {"HTTP_HOST": "pushlab.test"},
            {"HTTP_HOST": "192.0.2.1:5000"}, {"HTTP_HOST": ""}, {"HTTP_HOST": None},
            {"HTTP_HOST": "127.0.0.1.evil.example"}, {"HTTP_FORWARDED": "for=127.0.0.1"},
            {"HTTP_VIA": ""}, {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        ]),
    ],
)  # fmt: skip
def test_loopback_requests(local: bool, environs: list[dict[str, str | None]]) -> None:
    for environ in environs:
        whole = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "127.0.0.1:5000", **environ}
        given = {name: value for name, value in whole.items() if value is not None}
        assert access.is_loopback_request(given) is local, environ


def test_only_pages_of_this_origin_have_a_lab(server: Server) -> None:
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", ""):
        response = server.http.get("/lab", headers={**UPGRADE, "Origin": origin})
        assert response.status == 403
        assert "origin" in response.json["error"]
    with LabPage(server.ws, origin=server.url) as page:
        assert page.wait_for("lab")["may_steer"] is True
    for headers in ({}, {"Accept": "text/event-stream"}):
        response = server.http.get("/lab", headers=headers)
        assert (response.status, response.json) == (400, {"error": "/lab is a WebSocket"})
