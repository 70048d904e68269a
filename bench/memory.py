"""Measure what those who wait cost each server in memory: `python -m bench.memory`.

Starts each server anew for each figure, has some browsers come first, for what is needed once and
not once each, then many more, and divides what its resident memory grew by by their number. The
kernel's own memory for a socket is not in it.
"""

import argparse
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import NamedTuple

from bench.bytes_on_wire import AGENT, EVENT_SOURCE, FETCH, HANDSHAKE, WrongResponse, post
from bench.environment import about
from bench.fanout.browsers import parse
from bench.processes import PATIENCE, ROOT, NotRunning, Process
from bench.report.tables import as_rst
from bench.results import as_json
from bench.servers import HOSTED, started
from bench.statistics import median
from pushlab.hosting.listener import raise_descriptor_limit

COMMAND = "python -m bench.memory"
RESULT = ROOT / "docs" / "results" / "servers.json"

#: Those whose memory differs: serve2.py is as serve.py.
SERVERS = ("serve.py", "servers/threads.py", *HOSTED)

#: Seconds in which a server must do nothing to count as being at rest.
REST = 0.3

#: Sixteen zeros in base64; no server minds.
KEY = "AAAAAAAAAAAAAAAAAAAAAA=="


class Growth(NamedTuple):
    """What each one of those who came cost in bytes, and how many threads came with them all."""

    memory: float
    threads: int


def of_pushed(server: Process, count: int = 1000, *, first: int = 200) -> Growth:
    """Return what browsers cost that are pushed to by WebSocket."""
    return _growth(server, lambda: _told(server, "/update", HANDSHAKE), count, first)


def of_streams(server: Process, count: int = 400, *, first: int = 100) -> Growth:
    """Return what browsers cost that listen to an event stream."""
    return _growth(server, lambda: _told(server, "/update", EVENT_SOURCE), count, first)


def of_polls(server: Process, count: int = 400, *, first: int = 100) -> Growth:
    """Return what browsers cost whose long poll waits, and see that each is answered."""
    newest = post(server.port, {"n": 1})
    polls: list[socket.socket] = []

    def ask() -> socket.socket:
        polls.append(_asked(server, f"/update?after={newest}&timeout=60", FETCH))
        return polls[-1]

    def answered() -> None:
        post(server.port, {"n": 2})
        for poll in polls:
            said = b""
            while (answer := parse(said)) is None:
                if not (piece := poll.recv(4096)):
                    raise WrongResponse(f"the server hung up on a long poll after {said!r}")
                said += piece
            if b" 200 " not in answer[0]:
                raise WrongResponse(f"unexpected answer to a long poll: {answer[0]!r}")

    return _growth(server, ask, count, first, then=answered)


#: Each kind of browser that waits.
KINDS = {"pushed to": of_pushed, "long poll": of_polls, "event stream": of_streams}

#: Where not so many can wait, those who come first, and those who come then.
FEWER = {"uwsgi threads": (20, 70)}


def _growth(
    server: Process,
    come: Callable[[], socket.socket],
    count: int,
    first: int,
    *,
    then: Callable[[], object] = lambda: None,
) -> Growth:
    """Return what each of `count` browsers costs that come after the first ones."""
    with ExitStack() as all_of_them:
        for _ in range(first):
            all_of_them.enter_context(come())
        _rest(server)
        memory, threads = server.memory(), server.threads()
        for _ in range(count):
            all_of_them.enter_context(come())
        _rest(server)
        growth = Growth((server.memory() - memory) / count, server.threads() - threads)
        then()
        return growth


def _rest(server: Process) -> None:
    """Wait until the server has done all that it was asked for, also where it has to wait for it.

    Between two looks at its CPU time it must have done nothing; on a busy machine a short time
    would not tell that from not having had its turn.
    """
    deadline = time.monotonic() + PATIENCE
    used = server.cpu()
    time.sleep(REST)
    while (now := server.cpu()) != used and time.monotonic() < deadline:
        used = now
        time.sleep(REST)


def _asked(server: Process, path: str, template: str) -> socket.socket:
    """Send what Chromium would send, and leave it at that."""
    client = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    host = f"127.0.0.1:{server.port}"
    request = template.format(method="GET", path=path, host=host, agent=AGENT, etag="", key=KEY)
    client.sendall(request.encode())
    return client


def _told(server: Process, path: str, template: str) -> socket.socket:
    """Ask, and wait until told; one by one, as Werkzeug lets few wait to be accepted."""
    client = _asked(server, path, template)
    told = b""
    while b"cursor" not in told:
        piece = client.recv(4096)
        if not piece:
            raise WrongResponse(f"the server hung up after {told[:100]!r}")
        told += piece
    return client


def measure(
    servers: Sequence[str] = SERVERS, *, runs: int = 3
) -> dict[str, dict[str, list[float]]]:
    """Return each server's bytes for each kind of browser, one sample per run."""
    raise_descriptor_limit()
    found: dict[str, dict[str, list[float]]] = {}
    for name in servers:
        sys.stderr.write(f"{name}\n")
        found[name] = {}
        for kind, growth in KINDS.items():
            samples = found[name][kind] = []
            for _ in range(runs):
                with started(name) as server:
                    if growth is of_pushed or name not in FEWER:
                        cost = growth(server)
                    else:
                        first, count = FEWER[name]
                        cost = growth(server, count, first=first)
                    samples.append(round(cost.memory, 1))
    return found


def as_table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return the medians as a reStructuredText table."""
    rows = [("bytes for one browser", *KINDS)]
    rows += [
        (name, *(f"{median(kinds[kind]):,.0f}" for kind in KINDS)) for name, kinds in found.items()
    ]
    return as_rst(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--runs", type=int, default=3, help="of each server (%(default)s)")
    parser.add_argument(
        "--update-docs", "--write", action="store_true", help="write docs/results/servers.json"
    )
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("there must be at least one run")
    try:
        found = measure(runs=options.runs)
    except (NotRunning, WrongResponse, OSError) as error:
        sys.exit(f"{COMMAND}: {error}")
    sys.stdout.write(as_table(found) + "\n")
    if options.update_docs:
        result = {
            "command": f"{COMMAND} --update-docs",
            **about(gunicorn=version("gunicorn"), uwsgi=version("uwsgi")),
            "servers": found,
        }
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(as_json(result))


if __name__ == "__main__":
    main()
