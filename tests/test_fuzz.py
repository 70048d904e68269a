"""Random frames, requests and queries, for a bounded time: what no table thought of.

The same cases come every time, so that a failure is one for everybody. `PUSHLAB_FUZZ=50` tries
fifty times as many, different ones each time; either way Hypothesis prints the smallest case
that fails, and the line that brings it back.
"""

import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode

from pushlab.websocket import frames
from pushlab.websocket import handshake as pushlab_handshake
from pushlab.websocket.frames import BytesMessage, CloseConnection, Decoder, Ping, Pong, TextMessage
from pushlab.wsgi.access import AccessPolicy
from tests.clients import BINARY, CLOSE, PING, PONG, TEXT, UPGRADE, frame, handshake
from tests.conftest import Server, starting

CONTINUATION = 0
LIMIT = 300  # bytes of a message: small, so that it is met often

MORE = int(os.environ.get("PUSHLAB_FUZZ", "0"))


def examples(count: int) -> settings:
    return settings(
        max_examples=count * max(MORE, 1),
        derandomize=not MORE,
        deadline=None,
        database=None,
        print_blob=True,
    )


# What bytes mean, said again, without regard to speed: all of them at once.

#: RFC 3629 section 4, and the beginnings of what it allows.
CHARACTERS = re.compile(
    rb"""(?: [\x00-\x7f] | [\xc2-\xdf][\x80-\xbf]
    | \xe0[\xa0-\xbf][\x80-\xbf] | [\xe1-\xec\xee\xef][\x80-\xbf]{2} | \xed[\x80-\x9f][\x80-\xbf]
    | \xf0[\x90-\xbf][\x80-\xbf]{2} | [\xf1-\xf3][\x80-\xbf]{3} | \xf4[\x80-\x8f][\x80-\xbf]{2}
    )*""",
    re.VERBOSE,
)
BEGINNING = re.compile(
    rb"""(?: [\xc2-\xdf] | \xe0[\xa0-\xbf]? | [\xe1-\xef][\x80-\xbf]?
    | \xf0(?:[\x90-\xbf][\x80-\xbf]?)? | [\xf1-\xf3][\x80-\xbf]{0,2}
    | \xf4(?:[\x80-\x8f][\x80-\xbf]?)?
    )?""",
    re.VERBOSE,
)  # of a surrogate, too: Python's decoder refuses it when it is whole


def is_text(data: bytes, *, whole: bool) -> bool:
    valid = CHARACTERS.match(data)
    assert valid is not None
    rest = data[valid.end() :]
    return not rest if whole else BEGINNING.fullmatch(rest) is not None


Events = list[tuple[int, bytes]]


def meaning(data: bytes) -> tuple[Events, set[int | None], bool]:
    """What the bytes say to a server: whole messages, pings and pongs; how it closes; how surely.

    Of several faults in one frame, any may be told, so the codes are a set; it is empty if the
    connection stays open. A fault in a frame that is not whole may, but need not, be told yet.
    """
    events: Events = []
    message: tuple[int, bytes] | None = None
    while data:
        faults: set[int | None] = set()
        if len(data) < 2:
            return events, set(), False
        fin, reserved, opcode = data[0] >> 7, data[0] >> 4 & 7, data[0] & 15
        masked, size = data[1] >> 7, data[1] & 127
        control = opcode >= 8
        if reserved or opcode not in (0, 1, 2, 8, 9, 10) or not masked:
            faults.add(1002)
        if control and (not fin or size > 125):
            faults.add(1002)
        start = 2
        if size > 125:
            start, least = (4, 126) if size == 126 else (10, 65536)
            if len(data) < start:
                return events, faults, False
            size = int.from_bytes(data[2:start], "big")
            if not least <= size < 2**63:
                faults.add(1002)
        if not control and size + len(message[1] if message else b"") > LIMIT:
            faults.add(1009)
        if faults:
            return events, faults, True
        if not control and (opcode == CONTINUATION) != (message is not None):
            faults.add(1002)
        key, payload = data[start : start + 4], data[start + 4 : start + 4 + size]
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
        whole = len(data) >= start + 4 + size
        data = data[start + 4 + size :]
        if not control:
            if faults:
                return events, faults, whole or bool(payload)
            message = (opcode, payload) if message is None else (message[0], message[1] + payload)
            if message[0] == TEXT and not is_text(message[1], whole=whole and bool(fin)):
                return events, {1007}, True
            if whole and fin:
                events.append(message)
                message = None
        elif whole and opcode == CLOSE:
            return events, bye(payload), True
        elif whole:
            events.append((opcode, payload))
    return events, set(), True


def bye(payload: bytes) -> set[int | None]:
    """With what a close frame with this payload is answered."""
    if not payload:
        return {None}
    if len(payload) == 1:
        return {1002}
    code = int.from_bytes(payload[:2], "big")
    registered = {*range(1000, 1016)} - {1004, 1005, 1006, 1014, 1015}
    faults: set[int | None] = set()
    if code not in registered and not 3000 <= code < 5000:
        faults.add(1002)
    if not is_text(payload[2:], whole=True):
        faults.add(1007)
    return faults or {code}


class Listener:
    """Feeds a decoder, and puts the pieces of messages together."""

    def __init__(self) -> None:
        self.decoder = Decoder(max_message=LIMIT)
        self.events: Events = []
        self.closed: CloseConnection | None = None
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> None:
        for event in self.decoder.feed(data):
            assert self.closed is None, "nothing comes after a close"
            if isinstance(event, (TextMessage, BytesMessage)):
                data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                self._parts.append(data)
                assert sum(map(len, self._parts)) <= LIMIT
                if event.message_finished:
                    kind = TEXT if isinstance(event, TextMessage) else BINARY
                    self.events.append((kind, b"".join(self._parts)))
                    self._parts = []
            elif isinstance(event, (Ping, Pong)):
                self.events.append(
                    (PING if isinstance(event, Ping) else PONG, bytes(event.payload))
                )
            else:
                assert isinstance(event, CloseConnection)
                self.closed = event

    @property
    def code(self) -> int | None:
        """What is on the wire in answer to the close."""
        assert self.closed is not None
        answer = frames.encode(self.closed.response())
        assert answer[0] == 0x88
        assert len(answer) == 2 + answer[1] <= 127
        answer[4:].decode()
        return int.from_bytes(answer[2:4], "big") if answer[2:] else None


payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=10).map(str.encode),
    st.integers(0, LIMIT + 50).map(lambda size: b"x" * size),
    st.sampled_from([b"\xe2\x82", b"\xac", b"\xed\xa0\x80", b"\xf4\x90", b"\xf0\x9f\x92", b"\xa9"]),
    st.integers(900, 5100).map(lambda code: struct.pack("!H", code)),
)
any_frame = st.builds(
    frame,
    st.integers(0, 15),
    payloads,
    fin=st.booleans(),
    masked=st.sampled_from([True] * 20 + [False]),
    reserved=st.sampled_from([0] * 20 + [1, 2, 4]),
    length=st.sampled_from([None] * 20 + [0, 1, 126, LIMIT, LIMIT + 1, 65536, 2**62, 2**63]),
)
good_frame = st.one_of(
    st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=125)),
    st.builds(frame, st.sampled_from([TEXT, CONTINUATION]), payloads, fin=st.booleans()),
    st.builds(frame, st.just(BINARY), payloads),
    st.builds(
        lambda parts: b"".join(
            frame(CONTINUATION if i else TEXT, part, fin=i == len(parts) - 1)
            for i, part in enumerate(parts)
        ),
        st.lists(st.text(max_size=5).map(str.encode), min_size=1, max_size=4),
    ),
)
streams = st.one_of(
    st.lists(good_frame, max_size=8).map(b"".join),
    st.lists(st.one_of(good_frame, any_frame), max_size=8).map(b"".join),
    st.tuples(st.lists(good_frame, max_size=4).map(b"".join), st.binary(max_size=40)).map(b"".join),
    st.binary(max_size=100),
)
cuts = st.lists(st.integers(0, 2000), max_size=12)


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    """The data in pieces, none of them empty, as no read ever is."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    yield from (data[start:end] for start, end in pairwise(edges))


@given(streams, cuts, st.integers(0, 20))
@examples(800)
def test_frames_mean_what_they_mean(data: bytes, at: list[int], missing: int) -> None:
    """However they are cut, and whether or not the end is there; and nothing ever raises."""
    data = data[: len(data) - missing] if missing < len(data) else data
    events, codes, surely = meaning(data)
    for pieces in ([data] if data else [], list(cut(data, at)), [bytes([b]) for b in data]):
        listener = Listener()
        for piece in pieces:
            listener.feed(piece)
        assert listener.events == events
        if listener.closed is None:
            assert not (codes and surely)
        else:
            assert listener.code in codes


@given(streams, cuts)
@examples(500)
def test_an_idle_decoder_can_be_thrown_away(data: bytes, at: list[int]) -> None:
    keeping, forgetting = Listener(), Listener()
    for piece in cut(data, at):
        keeping.feed(piece)
        forgetting.feed(piece)
        assert keeping.events == forgetting.events
        assert repr(keeping.closed) == repr(forgetting.closed)
        if forgetting.closed is None and forgetting.decoder.idle:
            assert not forgetting._parts
            forgetting.decoder = Decoder(max_message=LIMIT)


@given(streams, st.binary(max_size=200))
@examples(300)
def test_after_a_close_there_is_silence(data: bytes, more: bytes) -> None:
    listener = Listener()
    for piece in (data + frame(CLOSE), more, frame(TEXT, b"x") + frame(CLOSE), frame(3)):
        if piece:
            listener.feed(piece)


messages = st.one_of(
    st.tuples(st.just(TEXT), st.text(max_size=99).map(str.encode).filter(lambda t: len(t) <= 300)),
    st.tuples(st.just(BINARY), st.binary(max_size=LIMIT)),
    st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)),
)
NO_EXTENSIONS: list[Extension] = []


@given(st.lists(messages, max_size=10), cuts, cuts)
@examples(300)
def test_what_another_library_encodes_arrives(
    sent: Events, at: list[int], fragments: list[int]
) -> None:
    data = b""
    for opcode, payload in sent:
        parts = list(cut(payload, fragments)) if opcode in (TEXT, BINARY) else []
        for number, part in enumerate(parts or [payload]):
            kind, fin = Opcode(0 if number else opcode), number == len(parts or [b""]) - 1
            data += Frame(kind, part, fin).serialize(mask=True, extensions=NO_EXTENSIONS)
    listener = Listener()
    for piece in cut(data, at):
        listener.feed(piece)
    assert listener.events == sent
    assert listener.closed is None
    assert listener.decoder.idle


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300)), st.integers(1000, 4999))
@examples(300)
def test_what_we_encode_another_library_decodes(message: str | bytes, code: int) -> None:
    event = TextMessage(message) if isinstance(message, str) else BytesMessage(message)
    reason = message if isinstance(message, str) else repr(message)
    for sent in (event, Ping(b"x" * (code % 126)), CloseConnection(code, reason)):
        data = bytearray(frames.encode(sent))

        def read_exact(count: int, data: bytearray = data) -> Iterator[None]:
            yield from ()
            taken = bytes(data[:count])
            del data[:count]
            return taken  # type: ignore[return-value]

        parsing = Frame.parse(read_exact, mask=False)  # type: ignore[arg-type]
        with pytest.raises(StopIteration) as done:
            next(parsing)
        got: Frame = done.value.value
        got.check()
        assert got.fin
        assert not data
        if sent is event:
            assert bytes(got.data) == (message.encode() if isinstance(message, str) else message)


# The handshake.

header_values = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=30),
    st.sampled_from([*UPGRADE.values(), "keep-alive, Upgrade", "127.0.0.1", "[::1]:5000", "null",
                     "http://127.0.0.1", "http://[", "https://a:b@c:d", "HTTP/1.1", "GET"]),
)  # fmt: skip
environs = st.dictionaries(
    st.sampled_from(
        ["REQUEST_METHOD", "SERVER_PROTOCOL", "HTTP_UPGRADE", "HTTP_CONNECTION", "HTTP_HOST",
         "HTTP_ORIGIN", "HTTP_SEC_WEBSOCKET_KEY", "HTTP_SEC_WEBSOCKET_VERSION", "PATH_INFO"]
    ),
    header_values,
)  # fmt: skip


@given(environs, st.lists(st.text(max_size=20), max_size=2))
@examples(500)
def test_a_request_is_refused_and_never_raises(environ: dict[str, Any], allowed: list[str]) -> None:
    assert pushlab_handshake.is_websocket_upgrade(environ) in (True, False)
    refusal = AccessPolicy(allow_origins=allowed).check(environ)
    if refusal is not None:
        assert re.fullmatch(r"4\d\d [A-Z][A-Za-z ]+", refusal.status)
        for name, value in refusal.headers:
            assert not re.search(r"[^ -~]", name + value)
        assert b"".join(refusal.body).startswith(b'{"error": "')


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http")


def ask(server: Server, request: bytes) -> int | None:
    """Send the bytes and no more; return the status of the answer, if there is one."""
    logged = len(server.log)
    with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
        with suppress(ConnectionError):
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionError):
            while data := sock.recv(65536):
                answer += data
    assert "Traceback" not in server.log[logged:], server.log[logged:]
    if not answer:
        return None
    found = re.match(rb"HTTP/1\.1 ([1-5]\d\d)", answer)
    assert found, answer
    return int(found[1])


noise = st.binary(max_size=30)
lines = st.one_of(
    st.sampled_from([b"GET /update HTTP/1.1", b"POST /data HTTP/1.1", b"HEAD / HTTP/1.0"]),
    st.tuples(
        st.sampled_from([b"GET", b"POST", b"get", b"HEAD", b"OPTIONS", b"", b"\xff"]),
        st.one_of(noise, st.sampled_from([b"/", b"/update?after=%ff", b"*", b"http://[", b"//"])),
        st.one_of(noise, st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.", b"HTTP/-1.1"])),
    ).map(b" ".join),
    noise,
)  # fmt: skip
names = st.sampled_from(
    [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect",
     b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Origin", b"Accept", b"Cookie", b"Range",
     b"If-None-Match", b"If-Modified-Since", b"Content-Type", b"Authorization", b"X"]
)  # fmt: skip
values = st.one_of(
    noise,
    st.sampled_from([b"-1", b"5", b"99999999999999999999", b"chunked", b"100-continue", b"upgrade",
                     b"websocket", b"13", b"bytes=5-1", b'"', b"W/", b"0x1", b"+5", b"1_0"]),
)  # fmt: skip
requests = st.one_of(
    noise,
    st.tuples(
        lines,
        st.lists(st.tuples(names, values).map(b": ".join), max_size=6).map(b"\r\n".join),
        st.one_of(noise, st.just(b"5\r\nhello\r\n0\r\n\r\n"), st.just(b"{}")),
    ).map(lambda parts: parts[0] + b"\r\n" + parts[1] + b"\r\n\r\n" + parts[2]),
    st.tuples(
        st.just(handshake("/update", "127.0.0.1", {})), st.integers(0, 300), st.binary(max_size=3)
    ).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]),
)  # fmt: skip


@given(requests)
@examples(300)
def test_random_requests_are_the_clients_fault(fuzzed: Server, request: bytes) -> None:
    status = ask(fuzzed, request)
    assert status is None or status < 500


#: What a server may be asked that is not quite right, found by looking at how it fails.
@pytest.mark.parametrize(
    "line", ["GET / HTTP/1", "GET / HTTP/1.", "GET / HTTP/", "GET / HTTP/1.x", "GET / HTTP/1.1.1",
             "GET / HTTP/-1.1", "GET / HTTP/\xb2.1"],
)  # fmt: skip
def test_a_strange_version_of_http_is_the_clients_fault(fuzzed: Server, line: str) -> None:
    status = ask(fuzzed, f"{line}\r\nHost: localhost\r\n\r\n".encode("latin-1"))
    assert status in (None, 200, 400, 505)


queries = st.dictionaries(
    st.sampled_from([b"after", b"carry", b"timeout", b"x"]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([b"0", b"1", b"0.01", b"-0", b"1e-1", b"nan", b"ffffffff-1", b"00000000-0",
                         b"ffffffff-99999999999999999999999", b"FFFFFFFF-1", b"ffffffff--1"]),
        st.from_regex(rb"[0-9a-f]{8}-[0-9]{1,30}\n?", fullmatch=True),
        st.integers(0, 200).map(lambda size: b"9" * size),
    ),
)  # fmt: skip


@given(queries, st.booleans())
@examples(200)
def test_random_parameters(fuzzed: Server, query: dict[bytes, bytes], upgrade: bool) -> None:
    path = "/update?" + "&".join(
        f"{quote_from_bytes(name)}={quote_from_bytes(value)}" for name, value in query.items()
    )
    changes: dict[str, str | None] = {} if upgrade else dict.fromkeys(UPGRADE)
    status = ask(fuzzed, handshake(path, f"127.0.0.1:{fuzzed.port}", changes))
    assert status in ((101, 400) if upgrade else (200, 204, 400))


@given(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode)), st.booleans())
@examples(200)
def test_random_bodies(fuzzed: Server, body: bytes, wrapped: bool) -> None:
    if wrapped:
        body = b'{"x": ' + body + b"}"
    answer = fuzzed.http.post("/data", body)
    assert answer.status in (201, 400)
    if answer.status == 201:
        assert fuzzed.http.get("/data").json["cursor"] == answer.json["cursor"]
