"""Frames of RFC 6455, encoded and decoded, without I/O.

wsproto does the framing. Added here are a limit on messages that holds from the declared length on,
so that one browser cannot fill the memory, and a decoder that can be thrown away between two
messages, so that an idle browser costs nothing.
"""

from collections.abc import Iterator

from wsproto.connection import Connection as Framing
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import Extension
from wsproto.frame_protocol import (
    LOCAL_ONLY_CLOSE_REASONS,
    CloseReason,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    RsvBits,
)

from pushlab import limits

__all__ = ["BytesMessage", "CloseConnection", "CloseReason", "Decoder", "Opcode", "Ping",
           "Pong", "TextMessage", "check_close", "encode", "is_empty_pong"]  # fmt: skip

#: A close code of IANA's registry that wsproto lacks.
BAD_GATEWAY = 1014
_BAD_GATEWAY, _SERVICE_RESTART = (1014).to_bytes(2, "big"), (1012).to_bytes(2, "big")

_NO_RESERVED_BITS = RsvBits(False, False, False)


def encode(event: Event, *, by_client: bool = False) -> bytes:
    """Encode one frame.

    Only a client's is masked (RFC 6455 section 5.2).
    """
    return bytes(Framing(_role(is_client=by_client)).send(event))


def _role(*, is_client: bool) -> ConnectionType:
    return ConnectionType.CLIENT if is_client else ConnectionType.SERVER


def check_close(code: int, reason: str = "") -> None:
    """Raise ValueError for what no close frame may have.

    RFC 6455 section 7.4.2 and IANA's registry say which codes there are.
    """
    registered = {BAD_GATEWAY, *CloseReason} - {*LOCAL_ONLY_CLOSE_REASONS}
    if not (code in registered or 3000 <= code <= 4999):
        raise ValueError(f"{code} is not a close code that can be sent")
    reason.encode()


def is_empty_pong(data: bytes) -> bool:
    """Tell whether this is a client's pong without payload.

    The reply to an empty ping (RFC 6455 section 5.5.3), without a decoder, which costs 40 µs and a
    kilobyte of garbage.
    """
    return len(data) == 6 and data.startswith(b"\x8a\x80")  # and a masking key


class _FrameGauge(Extension):
    """Reads every frame header; refuses large messages, counts bytes."""

    name = "frame-gauge"

    def __init__(self, max_message: int) -> None:
        self.max_message = max_message
        self.message_size = 0  # bytes of the message so far, in all its fragments
        self.in_message = False
        self.refused = False  # a message was too big
        self.consumed = 0  # bytes of complete frames, headers included
        self.is_bad_gateway = False  # a close frame with 1014
        self._is_control = self._is_close = False
        self._length = 0

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        # May be called twice for one frame, when its masking key is yet to come.
        self._is_control, self._length = opcode.iscontrol(), payload_length
        self._is_close = opcode is Opcode.CLOSE
        if not self._is_control and self.message_size + payload_length > self.max_message:
            self.refused = True
            return CloseReason.MESSAGE_TOO_BIG
        return _NO_RESERVED_BITS

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        # wsproto knows 1012 and 1013 of IANA's registry, but not 1014, and calls it an error.
        if self._is_close and data[:2] == _BAD_GATEWAY:
            self.is_bad_gateway = True
            return _SERVICE_RESTART + data[2:]
        return data

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> None:
        length = self._length
        self.consumed += 6 + (0 if length < 126 else 2 if length < 65536 else 8) + length
        if not self._is_control:
            self.in_message = not fin
            self.message_size = 0 if fin else self.message_size + length


class Decoder:
    """Decodes what one client sends, or with `is_client` the server.

    Refused as RFC 6455 section 7.4.1 says: protocol errors, unmasked frames among them, with
    1002, text that is not UTF-8 with 1007 as soon as it shows, more than `max_message` bytes
    with 1009 before they arrive.
    """

    def __init__(self, *, max_message: int | None = None, is_client: bool = False) -> None:
        self._gauge = _FrameGauge(limits.MAX_MESSAGE if max_message is None else max_message)
        self._framing = Framing(_role(is_client=is_client), extensions=[self._gauge])
        self._received = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that the bytes complete, in order.

        A CloseConnection is the last event, whether the client closes or has broken a rule;
        the reply to either is a close frame of the same code.
        """
        self._received += len(data)
        self._framing.receive_data(data)
        for event in self._framing.events():
            if isinstance(event, CloseConnection):
                if self._gauge.refused:
                    limit = self._gauge.max_message
                    event = CloseConnection(event.code, f"a message may have {limit} bytes at most")
                elif self._gauge.is_bad_gateway and event.code == CloseReason.SERVICE_RESTART:
                    event = CloseConnection(BAD_GATEWAY, event.reason)
                yield event
                return
            yield event

    @property
    def idle(self) -> bool:
        """True between two messages: a new decoder does as well."""
        return self._received == self._gauge.consumed and not self._gauge.in_message
