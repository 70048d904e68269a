"""One contract for every transport, on every server: what a browser may rely on."""

import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.clients import CLOSE, PING, PONG, TEXT, UPGRADE, RawSocket, frame
from tests.conftest import Server
from tests.hosting import WAYS, host
from tests.transports import TRANSPORTS, Browser, EventStream, sequence, transports

Open = Callable[..., Browser]

#: Those that have code of their own for the end, which is tried on peers that never answer, too:
#: it takes four seconds.
HOLD_OUT = ("serve.py", "servers/threads.py", "gunicorn", "uwsgi gevent", "uwsgi threads")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on every server, and if it browses, with every transport."""
    pairs = [(way, transport) for way in WAYS for transport in transports(tls=way.endswith(" tls"))]
    if "browse" in metafunc.fixturenames:
        names = [f"{way}-{transport}" for way, transport in pairs]
        metafunc.parametrize(("way", "transport"), pairs, ids=names, scope="module")
    elif "way" in metafunc.fixturenames:
        metafunc.parametrize("way", WAYS, scope="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Path:
    """A folder with a certificate."""
    folder = tmp_path_factory.mktemp("server")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return folder


@pytest.fixture(scope="module")
def server(way: str, folder: Path) -> Iterator[Server]:
    """A server of each way to host the app."""
    server = host(way, folder, "--source", "http")
    yield server
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log, server.log


@pytest.fixture(autouse=True)
def told_in_the_summary(request: pytest.FixtureRequest, record_property: Any) -> None:
    """A line of the summary for each server and transport."""
    parameters = request.node.callspec.params
    way, transport = parameters["way"], parameters.get("transport", "all")
    record_property("contract", f"{way:<24}{transport}")


@pytest.fixture
def browse(transport: str, server: Server) -> Iterator[Open]:
    """Open browsers of each transport on the server."""
    opened: list[Browser] = []

    def browse(**query: Any) -> Browser:
        opened.append(TRANSPORTS[transport](server, **query))
        return opened[-1]

    yield browse
    for browser in opened:
        browser.close()


def cursor(server: Server) -> str:
    return str(server.http.get("/data").json["cursor"])


def test_contract_without_after_it_is_told_at_once(server: Server, browse: Open) -> None:
    newest = server.publish({"n": 1})
    assert browse().news() == {"cursor": newest}


def test_contract_the_newest_cursor_waits_for_the_next(server: Server, browse: Open) -> None:
    browser = browse(after=server.publish({"n": 1}))
    with pytest.raises(TimeoutError):
        browser.news(timeout=0.2)
    told: list[Any] = []
    waiting = threading.Thread(target=lambda: told.append(browser.news()))
    waiting.start()
    newest = server.publish({"n": 2})
    waiting.join()
    assert told == [{"cursor": newest}]


def test_contract_a_signal_leads_to_the_reading(server: Server, browse: Open) -> None:
    browser = browse()
    browser.news()
    server.publish({"temperature": 21.5})
    signal = browser.news()
    reading = server.http.get("/data").json
    assert reading["cursor"] == signal["cursor"]
    assert reading["value"] == {"temperature": 21.5}


def test_contract_carry_brings_the_reading_itself(server: Server, browse: Open) -> None:
    browser = browse(carry=True)
    browser.news()
    before = time.time()
    server.publish({"text": "€ <&> \u2028", "list": [1, 2.5, None, True]})
    reading = browser.news()
    assert reading == server.http.get("/data").json
    assert reading["value"] == {"text": "€ <&> \u2028", "list": [1, 2.5, None, True]}
    assert before - 0.1 <= reading["changed_at"] <= time.time() + 0.1


def test_contract_the_largest_value_arrives(server: Server, browse: Open) -> None:
    browser = browse(carry=True)
    browser.news()
    value = {"text": "x" * (16 * 1024 - len('{"text": ""}'))}
    server.publish(value)
    assert browser.news()["value"] == value


def test_contract_nothing_is_lost_in_a_burst(server: Server, browse: Open) -> None:
    """Readings may be coalesced, but each news is newer, and the last is always told."""
    browser = browse()
    told = [browser.news()["cursor"]]
    cursors: list[str] = []
    burst = threading.Thread(
        target=lambda: cursors.extend(server.publish({"n": n}) for n in range(50))
    )
    burst.start()
    last = sequence(told[0]) + 50
    while sequence(told[-1]) < last:
        told.append(browser.news()["cursor"])
    burst.join()
    assert told[-1] == cursors[-1]
    sequences = [sequence(each) for each in told]
    assert sequences == sorted(set(sequences))
    with pytest.raises(TimeoutError):
        browser.news(timeout=0.1)


def test_contract_nothing_is_lost_across_a_reconnect(server: Server, browse: Open) -> None:
    browser = browse()
    last = browser.news()["cursor"]
    browser.close()
    newest = server.publish({"n": "while away"})
    assert browse(after=last).news() == {"cursor": newest}


def test_contract_many_browsers_are_told_the_same(server: Server, browse: Open) -> None:
    browsers = [browse() for _ in range(20)]
    told: list[Any] = [browser.news() for browser in browsers]
    threads = [
        threading.Thread(target=lambda b=browser: told.append(b.news())) for browser in browsers
    ]
    for thread in threads:
        thread.start()
    newest = server.publish({"n": 1})
    for thread in threads:
        thread.join()
    assert told[20:] == [{"cursor": newest}] * 20


def test_contract_all_transports_hear_of_the_same_change(server: Server) -> None:
    browsers = [TRANSPORTS[name](server) for name in transports(tls=server.tls is not None)]
    for browser in browsers:
        browser.news()
    with ThreadPoolExecutor(len(browsers)) as pool:
        told = [pool.submit(browser.news) for browser in browsers]
        newest = server.publish({"n": 1})
        assert [each.result() for each in told] == [{"cursor": newest}] * len(browsers)
    for browser in browsers:
        browser.close()


def test_contract_any_other_cursor_is_told_at_once(server: Server, browse: Open) -> None:
    server.publish({"n": 1})
    newest = server.publish({"n": 2})
    epoch = newest.partition("-")[0]
    for after in ("ffffffff-1", f"{epoch}-0", f"{epoch}-1", f"{epoch}-999999"):
        assert browse(after=after).news() == {"cursor": newest}


def refusal(server: Server, path: str, **changes: str) -> tuple[int, str]:
    answer = server.http.get(path, headers={**UPGRADE, **changes})
    return answer.status, answer.json["error"]


def test_contract_a_socket_is_refused_before_the_101(server: Server) -> None:
    assert refusal(server, "/update", Origin="http://evil.example")[0] == 403
    assert refusal(server, "/lab", Origin="null")[0] == 403
    assert refusal(server, "/nowhere")[0] == 404
    assert refusal(server, "/update?after=no")[0] == 400
    assert refusal(server, "/update", **{"Sec-WebSocket-Version": "8"})[0] == 426
    assert refusal(server, "/update", **{"Sec-WebSocket-Key": "short"})[0] == 400
    assert server.http.get("/data", headers={"Host": "evil.example"}).status == 421
    own = {"Origin": server.url, "Host": server.url.partition("://")[2]}
    with RawSocket(server.port, changes=own, wrap=server.wrap) as client:
        assert client.status == 101


def last_frame(client: RawSocket) -> tuple[int, bytes]:
    """Read on to the end of the connection; return the last frame, or opcode 0."""
    last = 0, b""
    while (got := client.frame()) is not None:
        last = got
    return last


@pytest.mark.parametrize("path", ["/update", "/lab"])
def test_contract_what_a_browser_must_not_send_ends_its_socket(server: Server, path: str) -> None:
    for sent, code in (
        # Its beginning: who still sends when nginx closes a line of TLS may not hear the answer.
        (frame(TEXT, b"x" * 1024, length=64 * 1024 + 1), 1009),
        (frame(TEXT, length=2**33), 1009),
        (frame(TEXT, b"hello", masked=False), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(CLOSE, struct.pack("!H", 4000) + b"bye"), 4000),
    ):
        with RawSocket(server.port, path, wrap=server.wrap) as client:
            client.send(sent)
            opcode, payload = last_frame(client)
            assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", code))


def test_contract_pings_are_answered_with_their_payload(server: Server) -> None:
    with RawSocket(server.port, "/update?carry=1", wrap=server.wrap) as client:
        client.send(frame(PING, b"are you there?"))
        assert (PONG, b"are you there?") in [client.frame(), client.frame()]


def test_contract_a_large_message_is_taken_whole(server: Server) -> None:
    with RawSocket(server.port, "/lab", wrap=server.wrap) as client:
        client.send(frame(TEXT, b" " * (64 * 1024)))
        while b"65536 bytes" not in (client.frame() or pytest.fail("closed"))[1]:
            pass


def test_contract_a_stop_is_a_goodbye_and_a_restart_is_news(way: str, folder: Path) -> None:
    """And, as it takes a server of its own: who is silent is given up."""
    server = host(way, folder, "--source", "http")
    newest = server.publish({"n": 1})
    sockets = [RawSocket(server.port, path, wrap=server.wrap) for path in ("/update", "/lab")]
    stream = EventStream(server, after="ffffffff-1")
    stream.news()
    polls = [server.ask(f"/update?after={newest}") for _ in range(3)]
    assert server.http.get("/data").status == 200, "what was asked before is being done by now"
    time.sleep(0.1)  # or a thread is just about to: nothing tells that a poll is being held
    with ThreadPoolExecutor() as pool:  # both answer, so that nothing has to wait for them
        codes = [pool.submit(client.close_code) for client in sockets]
        begun = time.monotonic()
        assert server.stop() == 0, server.log
        assert time.monotonic() - begun < 5
        assert [code.result() for code in codes] == [1001] * 2
    for poll in polls:
        assert poll.recv(4096).startswith(b"HTTP/1.1 204 ")
        poll.close()
    for client in sockets:
        client.close()
    with pytest.raises((EOFError, AssertionError)):
        list(iter(stream.event, None))
    stream.close()
    assert "Traceback" not in server.log, server.log

    # Who is deaf must not be given up for being silent before the server is stopped.
    interval = "2" if way in HOLD_OUT else "0.5"
    again = host(way, folder, "--source", "http", "--ping-interval", interval, port=server.port)
    silent = [RawSocket(again.port, path, wrap=again.wrap) for path in ("/update", "/lab")]
    again.publish({"n": 1})  # the same sequence, in another epoch
    for transport in transports(tls=again.tls is not None):
        browser = TRANSPORTS[transport](again, after=newest)
        assert browser.news()["cursor"] == cursor(again) != newest
        browser.close()
    for client in silent:
        last_frame(client)  # which ends, or this takes too long
        client.close()
    if way in HOLD_OUT:
        deaf = [RawSocket(again.port, path, wrap=again.wrap) for path in ("/update", "/lab")]
    assert again.stop() == 0, again.log
    if way in HOLD_OUT:
        for client in deaf:
            opcode, payload = last_frame(client)
            assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1001))
            client.close()
    assert "Traceback" not in again.log, again.log
