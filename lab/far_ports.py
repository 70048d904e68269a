"""Far ports: the same server behind relays, further away."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from pushlab.hosting.lifecycle import StartupError

#: A program and no import: importing asyncio would take longer than starting the relay.
_RELAY = Path(__file__).with_name("relay.py")

#: Seconds that the relays may take to end, all together. The server has closed its connections
#: before, so hardly any bytes are still under way.
_SHUTDOWN_TIMEOUT = 1.3


class FarPort:
    """A port from which the round trip takes `milliseconds`."""

    port: int  # known once `wait_until_open` has returned

    def __init__(self, milliseconds: float, *, host: str, server_port: int, prefer: int) -> None:
        self.milliseconds = milliseconds
        # -I and -S: only the standard library is found, whatever the environment and the current
        # directory, and it starts sooner. A session of its own, as Ctrl-C is for the server: its
        # last bytes pass the relay, which it closes afterwards.
        command = [sys.executable, "-I", "-S", str(_RELAY), f"--milliseconds={milliseconds}",
                   f"--host={host}", f"--server={server_port}", f"--port={prefer}"]  # fmt: skip
        try:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            raise StartupError(f"Cannot start the relay of a far port: {error.strerror}") from error
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)

    def wait_until_open(self) -> None:
        """Set `port` when the relay has opened it.

        Raises StartupError if it could not.
        """
        if line := self._stdout.readline():
            self.port = int(line)
        elif (status := self._process.wait()) > 0:
            raise StartupError("")  # the relay has printed why
        else:
            raise StartupError(f"The relay of a far port was ended by signal {-status}.")

    def shut_down(self) -> None:
        """Let the relay end when everything has arrived."""
        self._stdin.close()

    def close(self, *, timeout: float = _SHUTDOWN_TIMEOUT) -> None:
        """Shut down and wait; kill it after `timeout` seconds."""
        self.shut_down()
        self._stdout.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:  # it is stopped, or gets no CPU
            self._process.kill()
            self._process.wait()


@contextmanager
def far_ports(distances: Sequence[float], *, host: str, port: int) -> Iterator[list[FarPort]]:
    """Open a far port per distance; close them afterwards.

    Distances are round trips in milliseconds. The ports are those after the server's `port`, or
    any free ones where those are taken.
    """
    opened: list[FarPort] = []
    try:
        for prefer, distance in enumerate(distances, port + 1):
            free = prefer if prefer <= 65535 else 0
            opened.append(FarPort(distance, host=host, server_port=port, prefer=free))
        for far in opened:  # all are starting meanwhile
            far.wait_until_open()
        yield opened
    finally:
        for far in opened:  # all are ending meanwhile
            far.shut_down()
        deadline = time.monotonic() + _SHUTDOWN_TIMEOUT
        for far in opened:
            far.close(timeout=max(0.01, deadline - time.monotonic()))
