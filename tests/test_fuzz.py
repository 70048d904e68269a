"""Random frames, requests, queries and bodies, for a bounded time.

The cases are the same each time, so that a failure repeats everywhere. `PUSHLAB_FUZZ=50` tries
fifty times as many, different ones each time. Hypothesis prints the smallest case that fails, and
the line that repeats it.
"""

import os
import re
import struct
from collections.abc import Iterator
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
from tests.clients import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    exchange,
    frame,
    handshake,
)
from tests.conftest import Server, starting

LIMIT = 300  # bytes of a message: small, so that many cases reach it

MORE = int(os.environ.get("PUSHLAB_FUZZ", "0"))


def examples(count: int) -> settings:
    return settings(
        max_examples=count * max(MORE, 1),
        derandomize=not MORE,
        deadline=None,
        database=None,
        print_blob=True,
    )


# RFC 6455 again, for all bytes at once and without regard to speed.

#: RFC 3629 section 4: characters, and beginnings of characters.
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
)  # of a surrogate, too, as Python's decoder rejects it only whole


def is_text(data: bytes, *, whole: bool) -> bool:
    valid = CHARACTERS.match(data)
    assert valid is not None
    rest = data[valid.end() :]
    return not rest if whole else BEGINNING.fullmatch(rest) is not None


Events = list[tuple[int, bytes]]


def meaning(data: bytes) -> tuple[Events, set[int | None], bool]:
    """Return the events, the close codes, and their certainty.

    One frame may have several faults: its close code is any of the set, which is empty if the
    connection stays open. A fault in a frame that is not whole may be reported later.
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
            return events, close_codes(payload), True
        elif whole:
            events.append((opcode, payload))
    return events, set(), True


def close_codes(payload: bytes) -> set[int | None]:
    """Return the codes in reply to this close frame's payload."""
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


class Receiver:
    """Feeds a decoder, and joins the pieces of messages."""

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
        """The code in the close frame in reply."""
        assert self.closed is not None
        reply = frames.encode(self.closed.response())
        assert reply[0] == 0x88
        assert len(reply) == 2 + reply[1] <= 127
        reply[4:].decode()
        return int.from_bytes(reply[2:4], "big") if reply[2:] else None


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
    """Yield the data in pieces, none of them empty."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    yield from (data[start:end] for start, end in pairwise(edges))


@given(streams, cuts, st.integers(0, 20))
@examples(800)
def test_the_decoder_agrees_with_the_rfc(data: bytes, at: list[int], missing: int) -> None:
    """However the frames are cut, complete or not."""
    data = data[: len(data) - missing] if missing < len(data) else data
    events, codes, certain = meaning(data)
    for pieces in ([data] if data else [], list(cut(data, at)), [bytes([b]) for b in data]):
        receiver = Receiver()
        for piece in pieces:
            receiver.feed(piece)
        assert receiver.events == events
        if receiver.closed is None:
            assert not (codes and certain)
        else:
            assert receiver.code in codes


@given(streams, cuts)
@examples(500)
def test_an_idle_decoder_can_be_replaced(data: bytes, at: list[int]) -> None:
    kept, replaced = Receiver(), Receiver()
    for piece in cut(data, at):
        kept.feed(piece)
        replaced.feed(piece)
        assert kept.events == replaced.events
        assert repr(kept.closed) == repr(replaced.closed)
        if replaced.closed is None and replaced.decoder.idle:
            assert not replaced._parts
            replaced.decoder = Decoder(max_message=LIMIT)


@given(st.one_of(st.binary(max_size=8), st.binary(max_size=6).map(b"\x8a\x80".__add__)))
@examples(300)
def test_an_empty_pong_is_what_the_decoder_takes_for_one(data: bytes) -> None:
    decoder = Decoder()
    events = list(decoder.feed(data))
    assert frames.is_empty_pong(data) == (events == [Pong(payload=b"")] and decoder.idle)


@given(streams, st.binary(max_size=200))
@examples(300)
def test_no_event_follows_a_close(data: bytes, more: bytes) -> None:
    receiver = Receiver()
    for piece in (data + frame(CLOSE), more, frame(TEXT, b"x") + frame(CLOSE), frame(3)):
        if piece:
            receiver.feed(piece)


messages = st.one_of(
    st.tuples(st.just(TEXT), st.text(max_size=99).map(str.encode).filter(lambda t: len(t) <= 300)),
    st.tuples(st.just(BINARY), st.binary(max_size=LIMIT)),
    st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)),
)
NO_EXTENSIONS: list[Extension] = []


@given(st.lists(messages, max_size=10), cuts, cuts)
@examples(300)
def test_frames_of_another_library_are_decoded(
    sent: Events, at: list[int], fragments: list[int]
) -> None:
    data = b""
    for opcode, payload in sent:
        parts = list(cut(payload, fragments)) if opcode in (TEXT, BINARY) else []
        for number, part in enumerate(parts or [payload]):
            kind, fin = Opcode(0 if number else opcode), number == len(parts or [b""]) - 1
            data += Frame(kind, part, fin).serialize(mask=True, extensions=NO_EXTENSIONS)
    receiver = Receiver()
    for piece in cut(data, at):
        receiver.feed(piece)
    assert receiver.events == sent
    assert receiver.closed is None
    assert receiver.decoder.idle


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300)), st.integers(1000, 4999))
@examples(300)
def test_another_library_decodes_our_frames(message: str | bytes, code: int) -> None:
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
def test_random_headers_raise_nothing(environ: dict[str, Any], allowed: list[str]) -> None:
    assert pushlab_handshake.is_websocket_upgrade(environ) in (True, False)
    rejection = AccessPolicy(allow_origins=allowed).check(environ)
    if rejection is not None:
        assert re.fullmatch(r"4\d\d [A-Z][A-Za-z ]+", rejection.status)
        for name, value in rejection.headers:
            assert not re.search(r"[^ -~]", name + value)
        assert b"".join(rejection.body).startswith(b'{"error": "')


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http")


def send(server: Server, request: bytes) -> int | None:
    """Send the bytes; return the response's status, or None."""
    logged = len(server.log)
    received = exchange(server.port, request)
    assert "Traceback" not in server.log[logged:], server.log[logged:]
    if not received:
        return None
    found = re.match(rb"HTTP/1\.1 ([1-5]\d\d)", received)
    assert found, received
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
        st.just(handshake("/update")), st.integers(0, 300), st.binary(max_size=3)
    ).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]),
)  # fmt: skip


@given(requests)
@examples(300)
def test_random_requests_are_no_error_of_the_server(fuzzed: Server, request: bytes) -> None:
    status = send(fuzzed, request)
    # 501: a method in small letters; 505: another version.
    assert status is None or status < 500 or status in (501, 505)


@pytest.mark.parametrize(
    "line", ["GET / HTTP/1", "GET / HTTP/1.", "GET / HTTP/", "GET / HTTP/1.x", "GET / HTTP/1.1.1",
             "GET / HTTP/-1.1", "GET / HTTP/\xb2.1"],
)  # fmt: skip
def test_a_malformed_version_of_http_is_no_error_of_the_server(fuzzed: Server, line: str) -> None:
    status = send(fuzzed, f"{line}\r\nHost: localhost\r\n\r\n".encode("latin-1"))
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
    status = send(fuzzed, handshake(path, f"127.0.0.1:{fuzzed.port}", changes))
    assert status in ((101, 400) if upgrade else (200, 204, 400))


@given(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode)), st.booleans())
@examples(200)
def test_random_bodies(fuzzed: Server, body: bytes, wrapped: bool) -> None:
    if wrapped:
        body = b'{"x": ' + body + b"}"
    response = fuzzed.http.post("/data", body)
    assert response.status in (201, 400)
    if response.status == 201:
        assert fuzzed.cursor == response.json["cursor"]
