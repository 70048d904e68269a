"""The contract of every transport, on every server."""

import itertools
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.clients import CLOSE, TEXT, UPGRADE, RawSocket, close_frame, frame
from tests.conftest import Server
from tests.hosting import CLUSTER, SERVERS, start_server
from tests.transports import CLIENTS, Browser, EventStream, sequence

Open = Callable[..., Browser]

#: Servers whose shutdown is code of ours. It is tested with clients that never reply to the close
#: frame, too, which takes four seconds.
PUSHED = ("/update", "/lab")
OWN_SHUTDOWN = ("serve.py", "servers/threads.py", "gunicorn", "uwsgi gevent", "uwsgi threads")

#: Servers that hold connections with the code of another one here, of which only the shutdown is
#: their own: see "serve.py", "gunicorn", "serve.py tls" and "nginx".
LIKE_ANOTHER = ("serve2.py", "flask_sockets.worker", "gunicorn tls", "nginx tls")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on every server, and with every transport."""
    servers = (*SERVERS, CLUSTER)
    pairs = list(itertools.product(servers, CLIENTS))
    if "browse" in metafunc.fixturenames:
        names = [f"{name}-{transport}" for name, transport in pairs]
        metafunc.parametrize(("server_name", "transport"), pairs, ids=names, scope="module")
    elif "server_name" in metafunc.fixturenames:
        metafunc.parametrize("server_name", servers, scope="module")


@pytest.fixture(scope="module")
def servers(server_name: str) -> Iterator[list[Server]]:
    """Those of this name that have been started: the last one may still run."""
    servers: list[Server] = []
    yield servers
    for server in servers[-1:]:
        if server.process.poll() is None:
            assert server.stop() == 0, server.log
        assert "Traceback" not in server.log, server.log


@pytest.fixture
def server(servers: list[Server], server_name: str, certificate_folder: Path) -> Server:
    """Start it for the first test, and again after the one that stops it."""
    if not servers or servers[-1].process.poll() is not None:
        # Clients that reply to nothing are not dropped before the server stops.
        options = ("--source", "http", "--ping-interval", "600")
        servers.append(start_server(server_name, certificate_folder, *options))
    return servers[-1]


@pytest.fixture(autouse=True)
def summary(request: pytest.FixtureRequest, record_property: Any) -> None:
    """Name the test's server and transport, for the summary."""
    parameters = request.node.callspec.params
    name, transport = parameters["server_name"], parameters.get("transport", "all")
    record_property("contract", f"{name:<24}{transport}")


@pytest.fixture
def browse(transport: str, server: Server) -> Iterator[Open]:
    """Open browsers of each transport on the server."""
    opened: list[Browser] = []

    def browse(**query: Any) -> Browser:
        opened.append(CLIENTS[transport](server, **query))
        return opened[-1]

    yield browse
    for browser in opened:
        browser.close()


def test_contract_without_after_the_newest_comes_at_once(server: Server, browse: Open) -> None:
    newest = server.publish({"n": 1})
    assert browse().receive() == {"cursor": newest}


def test_contract_the_newest_cursor_waits_for_the_next(server: Server, browse: Open) -> None:
    browser = browse(after=server.publish({"n": 1}))
    with pytest.raises(TimeoutError):
        browser.receive(timeout=0.2)
    received: list[Any] = []
    waiting = threading.Thread(target=lambda: received.append(browser.receive()))
    waiting.start()
    newest = server.publish({"n": 2})
    waiting.join()
    assert received == [{"cursor": newest}]


def test_contract_a_signal_leads_to_the_reading(server: Server, browse: Open) -> None:
    browser = browse()
    browser.receive()
    server.publish({"temperature": 21.5})
    signal = browser.receive()
    reading = server.http.get("/data").json
    assert reading["cursor"] == signal["cursor"]
    assert reading["value"] == {"temperature": 21.5}


def test_contract_carry_brings_the_reading_itself(server: Server, browse: Open) -> None:
    browser = browse(carry=True)
    browser.receive()
    before = time.time()
    server.publish({"text": "€ <&> \u2028", "list": [1, 2.5, None, True]})
    reading = browser.receive()
    assert reading == server.http.get("/data").json
    assert reading["value"] == {"text": "€ <&> \u2028", "list": [1, 2.5, None, True]}
    assert before - 0.1 <= reading["changed_at"] <= time.time() + 0.1


def test_contract_the_largest_value_arrives(server: Server, browse: Open) -> None:
    browser = browse(carry=True)
    browser.receive()
    value = {"text": "x" * (16 * 1024 - len('{"text": ""}'))}
    server.publish(value)
    assert browser.receive()["value"] == value


def test_contract_nothing_is_lost_in_a_burst(server: Server, browse: Open) -> None:
    """Readings may be coalesced, but the last one always comes."""
    browser = browse()
    received = [browser.receive()["cursor"]]
    cursors: list[str] = []
    burst = threading.Thread(
        target=lambda: cursors.extend(server.publish({"n": n}) for n in range(20))
    )
    burst.start()
    last = sequence(received[0]) + 20
    while sequence(received[-1]) < last:
        received.append(browser.receive()["cursor"])
    burst.join()
    assert received[-1] == cursors[-1]
    sequences = [sequence(each) for each in received]
    assert sequences == sorted(set(sequences))
    newest = server.publish({"n": "the next"})
    assert browser.receive() == {"cursor": newest}, "nothing came twice"


def test_contract_nothing_is_lost_across_a_reconnect(server: Server, browse: Open) -> None:
    browser = browse()
    last = browser.receive()["cursor"]
    browser.close()
    newest = server.publish({"n": "while away"})
    assert browse(after=last).receive() == {"cursor": newest}


def test_contract_many_browsers_receive_the_same(server: Server, browse: Open) -> None:
    browsers = [browse() for _ in range(20)]
    for browser in browsers:
        browser.receive()
    assert_all_receive(server, browsers)


def test_contract_all_transports_receive_the_same_change(server: Server) -> None:
    browsers = [client(server) for client in CLIENTS.values()]
    for browser in browsers:
        browser.receive()
    assert_all_receive(server, browsers)
    for browser in browsers:
        browser.close()


def assert_all_receive(server: Server, browsers: list[Browser]) -> None:
    with ThreadPoolExecutor(len(browsers)) as pool:
        receiving = [pool.submit(browser.receive) for browser in browsers]
        newest = server.publish({"n": 1})
        assert [each.result() for each in receiving] == [{"cursor": newest}] * len(browsers)


def test_contract_other_cursors_get_the_newest_at_once(server: Server, browse: Open) -> None:
    server.publish({"n": 1})
    newest = server.publish({"n": 2})
    epoch = newest.partition("-")[0]
    for after in ("ffffffff-1", f"{epoch}-0", f"{epoch}-1", f"{epoch}-999999"):
        assert browse(after=after).receive() == {"cursor": newest}


def rejection(server: Server, path: str, **changes: str) -> tuple[int, str]:
    response = server.http.get(path, headers={**UPGRADE, **changes})
    return response.status, response.json["error"]


def test_contract_a_socket_is_rejected_before_the_101(server: Server) -> None:
    assert rejection(server, "/update", Origin="http://evil.example")[0] == 403
    assert rejection(server, "/lab", Origin="null")[0] == 403
    assert rejection(server, "/nowhere")[0] == 404
    assert rejection(server, "/update?after=no")[0] == 400
    assert rejection(server, "/update", **{"Sec-WebSocket-Version": "8"})[0] == 426
    assert rejection(server, "/update", **{"Sec-WebSocket-Key": "short"})[0] == 400
    assert server.http.get("/data", headers={"Host": "evil.example"}).status == 421
    own = {"Origin": server.url, "Host": server.url.partition("://")[2]}
    with server.websocket(changes=own) as client:
        assert client.status == 101


def code_of(client: RawSocket) -> bytes:
    """Read to the end without a reply; return the code."""
    opcode, payload = client.last_frame()
    assert opcode == CLOSE
    return payload[:2]


@pytest.mark.parametrize("path", ["/update", "/lab"])
def test_contract_a_protocol_error_closes_the_socket_with_its_code(
    server: Server, path: str
) -> None:
    for sent, code in (
        # Only the beginning of a message: a client that still sends while nginx closes its
        # connection over TLS may not receive the close frame.
        (frame(TEXT, b"x" * 1024, length=64 * 1024 + 1), 1009),
        (frame(TEXT, length=2**33), 1009),
        (frame(TEXT, b"hello", masked=False), 1002),
        (frame(TEXT, b"\xff"), 1007),
    ):
        with server.websocket(path) as client:
            client.send(sent)
            assert code_of(client) == struct.pack("!H", code)


@pytest.mark.parametrize("path", ["/update", "/lab"])
def test_contract_pings_and_close_frames_come_back_with_their_payload(
    server: Server, path: str
) -> None:
    with server.websocket(path) as client:
        client.ping(b"are you there?")
        client.send(close_frame(4000, b"bye"))
        assert client.last_frame() == (CLOSE, struct.pack("!H", 4000) + b"bye")


def test_contract_a_large_message_is_accepted_whole(server: Server) -> None:
    with server.websocket("/lab") as client:
        client.send(frame(TEXT, b" " * (64 * 1024)))
        while b"65536 bytes" not in (client.frame() or pytest.fail("closed"))[1]:
            pass


def test_contract_a_shutdown_is_announced_and_a_restart_is_a_new_epoch(
    server: Server, server_name: str, certificate_folder: Path
) -> None:
    """On the restarted server, clients that send nothing are dropped."""
    newest = server.publish({"n": 1})
    sockets = [server.websocket(path) for path in PUSHED]
    stream = EventStream(server, after="ffffffff-1")
    stream.receive()
    polls = [server.send_get(f"/update?after={newest}") for _ in range(3)]
    unresponsive = (
        [server.websocket(path) for path in PUSHED] if server_name in OWN_SHUTDOWN else []
    )
    server.until_idle()
    with ThreadPoolExecutor() as pool:
        codes = [pool.submit(client.close_code) for client in sockets]
        assert server.stop() == 0, server.log
        assert [code.result() for code in codes] == [1001] * 2
    for client in unresponsive:
        assert code_of(client) == struct.pack("!H", 1001)
        client.close()
    for poll in polls:
        assert poll.recv(4096).startswith(b"HTTP/1.1 204 ")
        poll.close()
    for client in sockets:
        client.close()
    with pytest.raises((EOFError, AssertionError)):
        list(iter(stream.event, None))
    stream.close()
    assert "Traceback" not in server.log, server.log
    if server_name in LIKE_ANOTHER:
        return

    options = ("--source", "http", "--ping-interval", "2")
    again = start_server(server_name, certificate_folder, *options, port=server.port)
    silent = [again.websocket(path) for path in PUSHED]
    again.publish({"n": 1})
    if server_name == CLUSTER:  # Redis has kept the epoch, and goes on
        before = newest
        assert again.cursor == f"{newest.rpartition('-')[0]}-{sequence(newest) + 1}"
    else:  # the same sequence number, in another epoch
        before = f"{newest.rpartition('-')[0]}-{sequence(again.cursor)}"
    for browser_of in CLIENTS.values():
        browser = browser_of(again, after=before)
        assert browser.receive()["cursor"] == again.cursor != before
        browser.close()
    for client in silent:
        client.last_frame()  # times out if the server does not drop it
        client.close()
    assert again.stop() == 0, again.log
    assert "Traceback" not in again.log, again.log
