"""Tells which waiting clients are gone."""

import os
import select
import socket
import sys
from collections.abc import Iterable


def gone(descriptors: Iterable[int]) -> list[int]:
    """Return the sockets whose other end has closed.

    A client that has shut down its sending side while it waits counts as gone.
    """
    if not hasattr(select, "POLLRDHUP"):
        return [number for number in descriptors if _is_at_end(number)]
    # Linux: it shows an end whatever may be left to read before it, and all sockets in one call.
    monkey = sys.modules.get("gevent.monkey")  # whose `poll` would let other greenlets run
    poller = (monkey.get_original("select", "poll") if monkey else select.poll)()
    for number in descriptors:
        poller.register(number, select.POLLRDHUP)
    return [number for number, _ in poller.poll(0)]


def _is_at_end(number: int) -> bool:
    with socket.socket(fileno=os.dup(number)) as copy:
        copy.setblocking(False)
        try:
            return not copy.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
