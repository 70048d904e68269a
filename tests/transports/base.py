"""What every headless half has."""

from typing import Any, Protocol

from tests.clients import HANG_TIMEOUT


class Browser(Protocol):
    """A subscriber: it receives one message after the other."""

    def receive(self, *, timeout: float = HANG_TIMEOUT) -> Any:
        """Return the next message; raise TimeoutError if none comes."""

    def close(self) -> None: ...


def query(carry: bool, after: str | None) -> str:
    return f"/update?carry={int(carry)}" + ("" if after is None else f"&after={after}")


def sequence(cursor: str) -> int:
    """Return the cursor's sequence number."""
    return int(cursor.rpartition("-")[2])
