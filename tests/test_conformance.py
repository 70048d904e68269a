"""RFC 6455 as tables, on hub sockets and blocking ones.

The cases follow sections 1 to 7 and 10 of the Autobahn test suite, at this server's message limit.
Each is sent on a connection of its own: to /update of serve.py, where a client sends only control
frames, and to /echo of tests/conversing.py, where messages come back.
"""

import base64
import hashlib
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest

from tests.clients import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket, frame
from tests.clients import close_frame as close
from tests.conftest import Server, row, starting

KINDS = {CONTINUATION: "continuation", TEXT: "text", BINARY: "binary", CLOSE: "close",
         PING: "ping", PONG: "pong"}  # fmt: skip
LIMIT = 65536  # bytes of a message

Frames = list[tuple[int, bytes]]


class Case(NamedTuple):
    """The pieces that a client sends, and the replies."""

    name: str
    pieces: list[bytes]
    replies: Frames  #: pongs, and echoes where there are any
    code: int | None = 0  #: of the server's close frame, None if it has none, 0 if it stays open


def case(
    name: str, data: bytes | list[bytes], replies: Frames | None = None, code: int | None = 0
) -> Case:
    return Case(name, [data] if isinstance(data, bytes) else data, replies or [], code)


def chopped(data: bytes, size: int = 1) -> list[bytes]:
    """Return the bytes in pieces of this size."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def fragments(opcode: int, *parts: bytes) -> bytes:
    """Return one message in as many frames."""
    last = len(parts) - 1
    return b"".join(
        frame(CONTINUATION if i else opcode, part, fin=i == last) for i, part in enumerate(parts)
    )


def wide(opcode: int, payload: bytes, form: str) -> bytes:
    """Return a frame with a longer length field than needed."""
    marker = {"!BH": 126, "!BQ": 127}[form]
    head = bytes([0x80 | opcode]) + struct.pack(form, 0x80 | marker, len(payload))
    return head + bytes(4) + payload


class Endpoint(NamedTuple):
    """A URL that the cases are sent to."""

    server: Server
    path: str
    echoes: bool


@pytest.fixture(scope="module", params=["serve.py", "blocking"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    with starting() as start:
        if request.param == "blocking":
            server = start("tests/conversing.py")
            yield Endpoint(server, "/echo", echoes=True)
        else:
            server = start(request.param, "--source", "http")
            yield Endpoint(server, "/update", echoes=False)


def check(endpoint: Endpoint, case: Case) -> None:
    """Send the pieces; compare the replies and the close frame."""
    end = (TEXT, b"the end") if endpoint.echoes else (PONG, b"the end")
    with RawSocket(endpoint.server.port, endpoint.path) as socket:
        assert socket.status == 101
        for number, piece in enumerate(case.pieces):
            if number:
                time.sleep(0.0005)  # so that they are received one by one, most of them
            socket.send(piece)
        if case.code == 0:
            socket.send(frame(TEXT if endpoint.echoes else PING, b"the end"))
        replies: Frames = []
        while (got := socket.frame()) is not None and got[0] != CLOSE and got != end:
            if got[0] == PING:
                socket.send(frame(PONG, got[1]))
            elif endpoint.echoes or got[0] != TEXT:  # a text frame from the hub is a reading
                replies.append(got)
        # A pong may overtake an echo, so the two are compared one after the other.
        for kinds in [{PONG}, {TEXT, BINARY}][: 1 + endpoint.echoes]:
            assert [each for each in replies if each[0] in kinds] == [
                each for each in case.replies if each[0] in kinds
            ]
        expected = case.code
        if expected == 0:
            assert got == end
            expected = 1000
            socket.send(close(expected))
            while (got := socket.frame()) is not None and got[0] == PING:
                pass
        assert got is not None, "the stream ended without a close frame"
        assert got[0] == CLOSE
        got[1][2:].decode()
        assert len(got[1]) != 1
        assert (struct.unpack("!H", got[1][:2])[0] if got[1] else None) == expected
        with suppress(ConnectionResetError):  # our last bytes reached a closed socket
            assert socket.frame() is None, "nothing may follow a close frame"


# Autobahn 1 and 10: framing.

LENGTHS = (0, 1, 125, 126, 127, 128, 65535, 65536)
BODY = {TEXT: b"*" * LIMIT, BINARY: b"\xfe" * LIMIT}

FRAMING = [
    *(case(f"{KINDS[kind]} of {size}", frame(kind, BODY[kind][:size]), [(kind, BODY[kind][:size])])
      for kind in BODY for size in LENGTHS),
    *(case(f"{KINDS[kind]} of 65536 in pieces of {size}",
           chopped(frame(kind, BODY[kind]), size), [(kind, BODY[kind])])
      for kind in BODY for size in (997, 1460)),
    *(case(f"{KINDS[kind]} of 65536 in fragments of {size}",
           fragments(kind, *chopped(BODY[kind], size)), [(kind, BODY[kind])])
      for kind in BODY for size in (1300, 4096)),
    *(case(f"{KINDS[kind]} of 300 in pieces of 1", chopped(frame(kind, BODY[kind][:300])),
           [(kind, BODY[kind][:300])]) for kind in BODY),
    case("five messages at once", b"".join(frame(TEXT, b"%d" % i) for i in range(5)),
         [(TEXT, b"%d" % i) for i in range(5)]),
    case("text, binary, text", frame(TEXT, b"a") + frame(BINARY, b"b") + frame(TEXT, b"c"),
         [(TEXT, b"a"), (BINARY, b"b"), (TEXT, b"c")]),
    case("masked with zeros", b"\x81\x81\0\0\0\0x", [(TEXT, b"x")]),
    case("masked with ones", b"\x81\x81\xff\xff\xff\xff\x87", [(TEXT, b"x")]),
]  # fmt: skip

LENGTH_FAULTS = [
    *(case(f"{KINDS[kind]} of {len(body)} in two length bytes", wide(kind, body, "!BH"), [], 1002)
      for kind in (TEXT, BINARY) for body in (b"", b"x", b"x" * 125)),
    *(case(f"{KINDS[kind]} of {len(body)} in eight length bytes", wide(kind, body, "!BQ"), [], 1002)
      for kind in (TEXT, BINARY) for body in (b"", b"x", b"x" * 126, b"x" * 65535)),
    *(case(f"{KINDS[kind]} with a length in {name} bytes", wide(kind, b"", form), [], 1002)
      for kind in (CLOSE, PING, PONG) for name, form in (("two", "!BH"), ("eight", "!BQ"))),
    *(case(f"{KINDS[kind]} with the first bit of the length set",
           frame(kind, length=length), [], 1002)
      for kind, length in ((TEXT, 2**63), (BINARY, 2**64 - 1))),
    *(case(f"{KINDS[kind]} of {size}, refused from its header on",
           frame(kind, length=size), [], 1009)
      for kind in (TEXT, BINARY) for size in (LIMIT + 1, 2**20, 2**31, 2**32, 2**62, 2**63 - 1)),
    *(case(f"{KINDS[kind]} of 65537 with its payload", frame(kind, b"x" * (LIMIT + 1)), [], 1009)
      for kind in (TEXT, BINARY)),
    *(case(f"{KINDS[kind]} of 65536 and 1 in fragments",
           frame(kind, BODY[kind], fin=False) + frame(CONTINUATION, b"x"), [], 1009)
      for kind in (TEXT, BINARY)),
    *(case(f"{KINDS[kind]} of 17 fragments of 4096, refused from a header on",
           fragments(kind, *chopped(BODY[kind], 4096), b"")[:-6]
           + frame(CONTINUATION, length=4096)[:4], [], 1009)
      for kind in (TEXT, BINARY)),
    case("the limit is for each message", frame(BINARY, BODY[BINARY]) * 2
         + frame(BINARY, length=LIMIT + 1), [(BINARY, BODY[BINARY])] * 2, 1009),
]  # fmt: skip

UNMASKED = [
    *(case(f"unmasked {KINDS[kind]}", frame(kind, b"", masked=False), [], 1002) for kind in KINDS),
    *(case(f"unmasked {KINDS[kind]} with a payload", frame(kind, b"\3\xe8", masked=False), [], 1002)
      for kind in KINDS),
    case("an unmasked fragment", frame(TEXT, b"a", fin=False)
         + frame(CONTINUATION, b"b", masked=False), [], 1002),
]  # fmt: skip

# Autobahn 2: pings and pongs.

TEN = [b"payload-%d" % i for i in range(10)]

PINGS = [
    *(case(f"ping with {name}", frame(PING, payload), [(PONG, payload)])
      for name, payload in (("nothing", b""), ("text", b"Hello, world!"),
                            ("binary", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"),
                            ("125 bytes", b"\xfe" * 125), ("no UTF-8", b"\xed\xa0\x80"))),
    *(case(f"ping of 125 in pieces of {size}", chopped(frame(PING, b"\xfe" * 125), size),
           [(PONG, b"\xfe" * 125)]) for size in (1, 7, 130)),
    case("pong of nothing", frame(PONG)),
    case("pong with a payload", frame(PONG, b"unsolicited")),
    case("pong of 125", frame(PONG, b"x" * 125)),
    case("pong, then ping", frame(PONG, b"unsolicited") + frame(PING, b"x"), [(PONG, b"x")]),
    case("ten pings", b"".join(frame(PING, each) for each in TEN),
         [(PONG, each) for each in TEN]),
    case("ten pings in pieces of 1", chopped(b"".join(frame(PING, each) for each in TEN)),
         [(PONG, each) for each in TEN]),
    case("ping between messages", frame(TEXT, b"a") + frame(PING, b"1") + frame(TEXT, b"b"),
         [(TEXT, b"a"), (PONG, b"1"), (TEXT, b"b")]),
    case("ping of 126", frame(PING, b"\xfe" * 126), [], 1002),
    case("pong of 126", frame(PONG, b"\xfe" * 126), [], 1002),
    case("ping of 65536", frame(PING, b"\xfe" * 65536), [], 1002),
    case("ping of 126, only its header", frame(PING, length=126), [], 1002),
]  # fmt: skip

# Autobahn 3: reserved bits. 4: reserved opcodes.

RESERVED_BITS = [
    *(case(f"bits {bits} on {KINDS[kind]}", frame(kind, b"", reserved=bits), [], 1002)
      for bits in range(1, 8) for kind in KINDS),
    *(case(f"bits {bits} after a message", frame(TEXT, b"first") + frame(TEXT, b"x", reserved=bits)
           + frame(PING, b"too late"), [(TEXT, b"first")], 1002) for bits in (1, 2, 4)),
    *(case(f"bits {bits} in pieces of 1", [frame(TEXT, b"first"),
           *chopped(frame(TEXT, b"x", reserved=bits)[:6])], [(TEXT, b"first")], 1002)
      for bits in (1, 4)),
    *(case(f"bits {bits} inside a message", frame(TEXT, b"a", fin=False)
           + frame(CONTINUATION, b"b", reserved=bits), [], 1002) for bits in (2, 4)),
]  # fmt: skip

RESERVED_OPCODES = [
    row
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    for row in (
        case(f"opcode {opcode}", frame(opcode), [], 1002),
        case(f"opcode {opcode} with a payload", frame(opcode, b"reserved"), [], 1002),
        case(f"opcode {opcode} between messages", frame(TEXT, b"a") + frame(opcode)
             + frame(TEXT, b"b") + frame(PING), [(TEXT, b"a")], 1002),
        case(f"opcode {opcode} inside a message", frame(TEXT, b"a", fin=False) + frame(opcode)
             + frame(CONTINUATION, b"b"), [], 1002),
    )
]  # fmt: skip

# Autobahn 5: fragmentation.

FRAGMENTS = [
    *(case(f"{KINDS[kind]} in {name}{how}", pieces, [(kind, b"".join(parts))])
      for kind in (TEXT, BINARY)
      for name, parts in (("2 fragments", [b"fragment1", b"fragment2"]),
                          ("4 fragments", [b"a", b"b", b"c", b"d"]),
                          ("3 empty fragments", [b"", b"", b""]),
                          ("3 fragments, two of them empty", [b"", b"middle", b""]))
      for how, pieces in (("", [fragments(kind, *parts)]),
                          (" in pieces of 1", chopped(fragments(kind, *parts))))),
    *(case(f"{KINDS[kind]} around a ping{how}", pieces, [(PONG, b"ping"), (kind, b"12")])
      for kind in (TEXT, BINARY)
      for data in [frame(kind, b"1", fin=False) + frame(PING, b"ping") + frame(CONTINUATION, b"2")]
      for how, pieces in (("", [data]), (" in pieces of 1", chopped(data)))),
    case("text around a pong", frame(TEXT, b"1", fin=False) + frame(PONG, b"x")
         + frame(CONTINUATION, b"2"), [(TEXT, b"12")]),
    case("text around ten pings", frame(TEXT, b"1", fin=False)
         + b"".join(frame(PING, each) for each in TEN) + frame(CONTINUATION, b"2"),
         [*((PONG, each) for each in TEN), (TEXT, b"12")]),
    case("five fragments, a ping after each",
         b"".join(frame(CONTINUATION if i else TEXT, b"%d" % i, fin=i == 4) + frame(PING, b"%d" % i)
                  for i in range(5)), [*((PONG, b"%d" % i) for i in range(5)), (TEXT, b"01234")]),
    case("a long ping and a pong inside a message", frame(TEXT, b"a", fin=False)
         + frame(PING, b"a" * 125) + frame(CONTINUATION, b"b", fin=False) + frame(PONG, b"b")
         + frame(CONTINUATION), [(PONG, b"a" * 125), (TEXT, b"ab")]),
    case("two messages in fragments", fragments(TEXT, b"1", b"2") + fragments(BINARY, b"3", b"4"),
         [(TEXT, b"12"), (BINARY, b"34")]),
    case("256 fragments of 1", fragments(TEXT, *[b"x"] * 256), [(TEXT, b"x" * 256)]),
    case("5000 empty fragments", fragments(TEXT, b"x", *[b""] * 5000), [(TEXT, b"x")]),
]  # fmt: skip

FRAGMENT_FAULTS = [
    *(case(f"{KINDS[kind]} as a fragment{how}", frame(kind, body, fin=False), [], 1002)
      for kind in (CLOSE, PING, PONG) for how, body in (("", b""), (" with a payload", b"\3\xe8"))),
    case("ping in two fragments", fragments(PING, b"1", b"2"), [], 1002),
    case("pong in two fragments", fragments(PONG, b"1", b"2"), [], 1002),
    *(case(f"continuation of nothing, {name}{how}", pieces, [], 1002)
      for name, fin in (("last", True), ("not last", False))
      for data in [frame(CONTINUATION, b"x", fin=fin) + frame(TEXT, b"Hello")]
      for how, pieces in (("", [data]), (" in pieces of 1", chopped(data[:7])))),
    case("empty continuation of nothing", frame(CONTINUATION), [], 1002),
    *(case(f"continuation of nothing after {name}{how}",
           data + frame(CONTINUATION, b"x", fin=fin), [(TEXT, b"12")], 1002)
      for name, data in (("a message", frame(TEXT, b"12")),
                         ("fragments", fragments(TEXT, b"1", b"2")))
      for how, fin in (("", True), (", not last", False))),
    *(case(f"{KINDS[second]} inside {KINDS[first]}{how}",
           frame(first, b"1", fin=False) + frame(second, b"2", fin=fin) + frame(CONTINUATION, b"3"),
           [], 1002)
      for first in (TEXT, BINARY) for second in (TEXT, BINARY)
      for how, fin in (("", True), (", itself a fragment", False))),
    case("empty text inside text", frame(TEXT, b"1", fin=False) + frame(TEXT), [], 1002),
]  # fmt: skip

# Autobahn 6: UTF-8.

GOOD_TEXT = {
    "Greek": "κόσμε", "German": "Hello-µ@ßöäüàá-UTF-8!!", "first of 1": "\x00",
    "first of 2": "\x80", "first of 3": "\u0800", "first of 4": "\U00010000", "last of 1": "\x7f",
    "last of 2": "\u07ff", "last of 3": "\uffff", "last of 4": "\U0010ffff",
    "before the surrogates": "\ud7ff", "after the surrogates": "\ue000",
    "replacement character": "\ufffd", "byte order mark": "\ufeff",
    "no characters": "\ufdd0\ufdef\ufffe\U0001fffe\U0001ffff\U0008fffe\U000fffff",
    "emoji": "👩🏽‍🚀 €",
}  # fmt: skip

UTF8 = [
    row
    for name, text in GOOD_TEXT.items()
    for data in [text.encode()]
    for row in (
        case(f"{name} whole", frame(TEXT, data), [(TEXT, data)]),
        case(f"{name} in fragments of 1", fragments(TEXT, *chopped(data)), [(TEXT, data)]),
        case(f"{name} in pieces of 1", chopped(frame(TEXT, data)), [(TEXT, data)]),
    )
] + [
    case(f"{name} in two fragments, cut after byte {cut}", fragments(TEXT, data[:cut], data[cut:]),
         [(TEXT, data)])
    for name in ("Greek", "first of 4", "emoji") for data in [GOOD_TEXT[name].encode()]
    for cut in range(1, len(data))
] + [
    case("a ping inside a character", frame(TEXT, b"\xe2", fin=False) + frame(PING, b"?")
         + frame(CONTINUATION, b"\x82\xac"), [(PONG, b"?"), (TEXT, "€".encode())]),
    case("an empty fragment inside a character", fragments(TEXT, b"\xe2", b"", b"\x82", b"\xac"),
         [(TEXT, "€".encode())]),
    case("binary need not be text", frame(BINARY, b"\xff\xfe\xed\xa0\x80"),
         [(BINARY, b"\xff\xfe\xed\xa0\x80")]),
    case("binary fragments need not be text", fragments(BINARY, b"\xc0", b"\xaf"),
         [(BINARY, b"\xc0\xaf")]),
    *(case(f"{size} bytes of text cut in a character", fragments(TEXT, data[:size], data[size:]),
           [(TEXT, data)]) for data in ["€".encode() * 21_845] for size in (1, 4096, 65534)),
]  # fmt: skip

#: Up to the first byte that is invalid there, or after which no decoder needs another: Python's
#: decoder accepts the first two bytes of a surrogate.
BAD_TEXT = {
    "invalid in the middle": "κόσμε".encode() + b"\xed\xa0\x80", "beyond Unicode": b"\xf4\x90",
    "beyond Unicode after text": "κόσμε".encode() + b"\xf4\x90", "continuation 80": b"\x80",
    "continuation bf": b"\xbf", "continuation after text": b"Hello\x80",
    "two continuations": b"\x80\xbf", "overlong slash of 2": b"\xc0",
    "overlong slash of 3": b"\xe0\x80", "overlong slash of 4": b"\xf0\x80",
    "overlong slash of 5": b"\xf8", "overlong slash of 6": b"\xfc", "overlong last of 1": b"\xc1",
    "overlong last of 2": b"\xe0\x9f", "overlong last of 3": b"\xf0\x8f",
    "lonely start of 2": b"\xc3 ", "lonely start of 3": b"\xe2 ",
    "lonely start of 3 and 1": b"\xe2\x82 ", "lonely start of 4": b"\xf0 ",
    "lonely start of 4 and 2": b"\xf0\x9f\x92 ", "start after start": b"\xc3\xc3", "fe": b"\xfe",
    "ff": b"\xff", "first surrogate": b"\xed\xa0\x80", "last high surrogate": b"\xed\xaf\xbf",
    "first low surrogate": b"\xed\xb0\x80", "last surrogate": b"\xed\xbf\xbf",
    "first of 5": b"\xf8", "first beyond f4": b"\xf5",
}  # fmt: skip

#: Right so far, but a character lacks its end.
CUT_TEXT = {
    "2": b"\xce", "3, first": b"\xe2", "3, second": b"\xe2\x82", "4, first": b"\xf0",
    "4, second": b"\xf0\x9f", "4, third": b"\xf0\x9f\x92", "text": "κόσμε".encode()[:-1],
}  # fmt: skip

UTF8_FAULTS = [
    row
    for name, data in BAD_TEXT.items()
    for row in (
        case(f"{name} whole", frame(TEXT, data + b"edited"), [], 1007),
        # The frame, or the message, does not end here: the server must not wait for its end.
        case(f"{name} early", frame(TEXT, data + b"x" * 100)[: 6 + len(data)], [], 1007),
        case(f"{name} in fragments of 1",
             fragments(TEXT, *chopped(data), b"")[: -6], [], 1007),
        case(f"{name} in pieces of 1",
             chopped(frame(TEXT, data + b"x" * 100)[: 6 + len(data)]), [], 1007),
    )
] + [
    row
    for name, data in CUT_TEXT.items()
    for row in (
        case(f"cut in a character of {name}", frame(TEXT, data), [], 1007),
        case(f"cut in a character of {name} in fragments", fragments(TEXT, *chopped(data), b""),
             [], 1007),
    )
] + [
    case("a character in two messages", frame(TEXT, b"\xe2") + frame(TEXT, b"\x82\xac"), [], 1007),
    case("good text before bad", frame(TEXT, b"good") + frame(TEXT, b"\xff"), [(TEXT, b"good")],
         1007),
    case("64 KiB and a bad byte", frame(TEXT, b"x" * 65535 + b"\xff"), [], 1007),
]  # fmt: skip

# Autobahn 7: closing.

GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014,
              3000, 3001, 3999, 4000, 4001, 4999)  # fmt: skip
BAD_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 32768, 65535)

CLOSING = [
    *(case(f"{code}", close(code), [], code) for code in GOOD_CODES),
    *(case(f"{code} with a reason", close(code, "tschüß".encode()), [], code)
      for code in GOOD_CODES),
    *(case(f"{code} is not to be sent", close(code), [], 1002) for code in BAD_CODES),
    case("no code", frame(CLOSE), [], None),
    case("half a code", frame(CLOSE, b"\x03"), [], 1002),
    case("a code of four bytes", frame(CLOSE, struct.pack("!I", 65536)), [], 1002),
    case("reason of 123 bytes", close(1000, b"*" * 123), [], 1000),
    case("reason of 123 bytes in pieces of 1", chopped(close(1000, b"*" * 123)), [], 1000),
    case("reason of 124 bytes", close(1000, b"*" * 124), [], 1002),
    case("reason of 3-byte characters", close(1000, "€".encode() * 41), [], 1000),
    *(case(f"reason with {name}", close(1000, reason), [], 1007)
      for name, reason in (("a bad byte", b"\xff"), ("a surrogate", b"\xed\xa0\x80"),
                           ("a cut character", b"x\xe2\x82"),
                           ("bad text", "κόσμε".encode() + b"\xed\xa0\x80edited"))),
    case("in pieces of 1", chopped(close(1000, b"bye")), [], 1000),
    case("twice", close(1000) + close(1000), [], 1000),
    case("twice, with another code", close(3000) + close(1011), [], 3000),
    case("text after it", close(1000) + frame(TEXT, b"x"), [], 1000),
    case("text after it, later", [close(1000), frame(TEXT, b"x")], [], 1000),
    case("ping after it", close(1000) + frame(PING, b"x"), [], 1000),
    case("broken frames after it", close(1000) + b"\xff" * 1000, [], 1000),
    case("64 KiB after it", close(1000) + frame(BINARY, BODY[BINARY]), [], 1000),
    case("message before it", frame(TEXT, b"Hello") + close(1000), [(TEXT, b"Hello")], 1000),
    case("ping before it", frame(PING, b"x") + close(1000), [(PONG, b"x")], 1000),
    case("inside a message", frame(TEXT, b"a", fin=False) + close(1000)
         + frame(CONTINUATION, b"b"), [], 1000),
    case("inside a character", frame(TEXT, b"\xe2", fin=False) + close(1001), [], 1001),
]  # fmt: skip


TABLES = {
    "framing": FRAMING, "lengths": LENGTH_FAULTS, "masks": UNMASKED, "pings": PINGS,
    "bits": RESERVED_BITS, "opcodes": RESERVED_OPCODES, "fragments": FRAGMENTS,
    "bad fragments": FRAGMENT_FAULTS, "UTF-8": UTF8, "bad UTF-8": UTF8_FAULTS, "closing": CLOSING,
}  # fmt: skip
for cases in TABLES.values():
    assert len({case.name for case in cases}) == len(cases), "a name is there twice"


@pytest.mark.parametrize("cases", TABLES.values(), ids=TABLES)
def test_frames(endpoint: Endpoint, cases: list[Case]) -> None:
    for case in cases:
        with row(case.name):
            check(endpoint, case)


# The handshake. A header may be named twice by spelling it differently.

VERSIONS = ("0", "7", "8", "12", "14", "25", "-13", "013", "13.0", "x", "13, 8")
KEY = base64.b64encode(b"sixteen bytes, 1").decode()

Changes = dict[str, str | None]

HANDSHAKES: list[tuple[str, Changes, int]] = [
    ("as it should be", {}, 101),
    ("the key of the RFC", {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, 101),
    ("names in lower case", {"Upgrade": None, "upgrade": "websocket", "Connection": None,
     "connection": "Upgrade", "Sec-WebSocket-Key": None, "sec-websocket-key": KEY}, 101),
    ("names in upper case", {"Upgrade": None, "UPGRADE": "websocket", "Connection": None,
     "CONNECTION": "Upgrade", "Sec-WebSocket-Key": None, "SEC-WEBSOCKET-KEY": KEY}, 101),
    ("Upgrade: WebSocket", {"Upgrade": "WebSocket"}, 101),
    ("Upgrade: WEBSOCKET", {"Upgrade": "WEBSOCKET"}, 101),
    ("Upgrade: two protocols", {"Upgrade": "h2c, websocket"}, 101),
    ("Connection: upgrade", {"Connection": "upgrade"}, 101),
    ("Connection: UPGRADE", {"Connection": "UPGRADE"}, 101),
    ("Connection: a list", {"Connection": "keep-alive, Upgrade"}, 101),
    ("Connection: a list without spaces", {"Connection": "keep-alive,upgrade"}, 101),
    ("Connection: a list with tabs", {"Connection": "keep-alive ,\t Upgrade"}, 101),
    ("Connection: two lines", {"Connection": "keep-alive", "connection": "Upgrade"}, 101),
    ("Connection: empty elements", {"Connection": ", Upgrade,,"}, 101),
    ("spaces around values", {"Upgrade": "  websocket  ", "Connection": "\tUpgrade ",
     "Sec-WebSocket-Version": " 13 ", "Sec-WebSocket-Key": f"  {KEY} "}, 101),
    ("Origin missing", {"Origin": None}, 101),
    ("extensions are ignored", {"Sec-WebSocket-Extensions": "permessage-deflate"}, 101),
    ("subprotocols are ignored", {"Sec-WebSocket-Protocol": "chat, superchat"}, 101),
    ("cookies", {"Cookie": "a=b; c=d"}, 101),
    ("a header of 4000 bytes", {"Cookie": "x" * 4000}, 101),
    ("an unknown header", {"X-Nonsense": "\xe4".encode().decode("latin-1")}, 101),
    ("Connection missing", {"Connection": None}, 400),
    ("Connection: empty", {"Connection": ""}, 400),
    ("Connection: close", {"Connection": "close"}, 400),
    ("Connection: keep-alive", {"Connection": "keep-alive"}, 400),
    ("Connection: part of a word", {"Connection": "Upgrades"}, 400),
    ("Connection: with more words", {"Connection": "no upgrade"}, 400),
    ("Host missing", {"Host": None}, 400),
    ("Host: empty", {"Host": ""}, 400),
    ("Host: two lines", {"host": "127.0.0.1"}, 400),
    ("HTTP/1.0", {"version": "HTTP/1.0"}, 400),
    ("HTTP/0.9", {"version": "HTTP/0.9"}, 505),
    ("HTTP/2.0", {"version": "HTTP/2.0"}, 505),
    ("no version of HTTP", {"version": "FTP/1.1"}, 400),
    ("key missing", {"Sec-WebSocket-Key": None}, 400),
    ("key empty", {"Sec-WebSocket-Key": ""}, 400),
    ("key of 15 bytes", {"Sec-WebSocket-Key": base64.b64encode(bytes(15)).decode()}, 400),
    ("key of 17 bytes", {"Sec-WebSocket-Key": base64.b64encode(bytes(17)).decode()}, 400),
    ("key without padding", {"Sec-WebSocket-Key": KEY.rstrip("=")}, 400),
    ("key with a space", {"Sec-WebSocket-Key": KEY[:4] + " " + KEY[4:]}, 400),
    ("key of another alphabet", {"Sec-WebSocket-Key": "_" + KEY[1:]}, 400),
    ("key of four letters", {"Sec-WebSocket-Key": "AAAA"}, 400),
    ("key of 22 bytes", {"Sec-WebSocket-Key": base64.b64encode(bytes(22)).decode()}, 400),
    ("key not base64", {"Sec-WebSocket-Key": "!" * 24}, 400),
    ("key not ASCII", {"Sec-WebSocket-Key": "\xe4" + KEY[1:]}, 400),
    ("two keys", {"sec-websocket-key": KEY}, 400),
    ("a body of no bytes", {"Content-Length": "0"}, 101),
    ("a body", {"Content-Length": "5"}, 400),
    ("a body in chunks", {"Transfer-Encoding": "chunked"}, 400),
    ("version missing", {"Sec-WebSocket-Version": None}, 426),
    ("version empty", {"Sec-WebSocket-Version": ""}, 426),
    ("two versions", {"sec-websocket-version": "8"}, 426),
    ("Origin: elsewhere", {"Origin": "http://evil.example"}, 403),
    ("Origin: null", {"Origin": "null"}, 403),
    ("Origin: empty", {"Origin": ""}, 403),
    ("Origin: without the port", {"Origin": "http://127.0.0.1"}, 403),
    ("Origin: malformed", {"Origin": "http://[bad"}, 403),
    ("Origin: another port", {"Origin": "http://127.0.0.1:1"}, 403),
    ("Origin: this host in its user part", {"Origin": "http://127.0.0.1@evil.example"}, 403),
    ("Origin: this host at its start", {"Origin": "http://127.0.0.1.evil.example"}, 403),
    ("Origin: two lines", {"Origin": "http://127.0.0.1", "origin": "http://evil.example"}, 403),
]  # fmt: skip


HANDSHAKES += [(f"version {each}", {"Sec-WebSocket-Version": each}, 426) for each in VERSIONS]


@pytest.mark.parametrize(
    ("changes", "status"), [row[1:] for row in HANDSHAKES], ids=[row[0] for row in HANDSHAKES]
)
def test_handshake(endpoint: Endpoint, changes: Changes, status: int) -> None:
    with RawSocket(endpoint.server.port, endpoint.path, changes=changes) as socket:
        assert socket.status == status
        if status == 101:
            check_accepted(socket, changes)
            return
        assert "Upgrade" not in socket.headers
        if status == 426:
            assert socket.headers["Sec-WebSocket-Version"] == "13"
        if "version" not in changes:  # gevent may respond then, without a body
            assert socket.headers["Content-Type"] == "application/json"
            assert socket.body.startswith(b'{"error": "')


def check_accepted(socket: RawSocket, changes: Changes) -> None:
    sent = {name.lower(): value for name, value in changes.items()}
    key = sent.get("sec-websocket-key") or base64.b64encode(bytes(16)).decode()
    digest = hashlib.sha1(key.strip().encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert socket.headers["Sec-WebSocket-Accept"] == base64.b64encode(digest).decode()
    assert socket.headers["Upgrade"].lower() == "websocket"
    assert socket.headers["Connection"].lower() == "upgrade"
    for name in ("Extensions", "Protocol"):
        assert f"Sec-WebSocket-{name}" not in socket.headers
    for name in ("Content-Length", "Transfer-Encoding"):
        assert name not in socket.headers
    socket.ping(b"open")


@pytest.mark.parametrize("path", ["/", "/nowhere", "/data", "/healthz", "/static/x", "{}/", "{}/x",
                                  "{}%00", "/%75pdate/", "/..{}", "*"])  # fmt: skip
def test_other_paths_accept_no_websocket(endpoint: Endpoint, path: str) -> None:
    with RawSocket(endpoint.server.port, path.format(endpoint.path)) as socket:
        assert socket.status in ({400, 404} if path in ("/static/x", "*") else {308, 404})
        assert "Upgrade" not in socket.headers


def test_the_request_line_may_have_the_full_url(endpoint: Endpoint) -> None:
    """A server must accept it (RFC 9112 section 3.2.2)."""
    url = f"http://127.0.0.1:{endpoint.server.port}{endpoint.path}"
    with RawSocket(endpoint.server.port, url) as socket:
        assert socket.status == 101
