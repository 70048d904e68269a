"""What those who wait cost each server: servers.json, by `python -m bench.memory`."""

import math
from collections.abc import Callable

from bench.environment import described
from bench.figures.pages import Part, Raw
from bench.memory import as_table
from bench.statistics import median

#: What holds a request that waits, as the README's table of servers says.
GREENLETS = ("serve.py", "gunicorn", "flask_sockets.worker", "uwsgi gevent")
THREADS = ("servers/threads.py", "uwsgi threads", "flask run")


def _kilobytes(raw: Raw, server: str, kind: str) -> float:
    """Return a thousandth of the bytes that one browser of this kind costs this server."""
    return median(raw.json("servers")["servers"][server][kind]) / 1000


def _pushed_to(server: str) -> Callable[[Raw], str]:
    return lambda raw: f"{_kilobytes(raw, server, 'pushed to'):.1f} KB"


def _most_pushed_to(raw: Raw) -> str:
    """Return the next whole number above what any server needs."""
    servers = raw.json("servers")["servers"]
    most = max(_kilobytes(raw, server, "pushed to") for server in servers)
    return f"{math.floor(most) + 1} KB"


def _held(*servers: str) -> Callable[[Raw], str]:
    """Have the least and the most that a held request costs these servers."""

    def between(raw: Raw) -> str:
        costs = [
            _kilobytes(raw, server, kind)
            for server in servers
            for kind in ("long poll", "event stream")
        ]
        least, most = f"{min(costs):.0f}", f"{max(costs):.0f}"
        return f"{least} KB" if least == most else f"{least} to {most} KB"

    return between


def _versions(raw: Raw) -> str:
    versions = raw.json("servers")["versions"]
    return f"uWSGI {versions['uwsgi']}, Python {versions['Python']}"


_PAGE = """\
What those who wait cost each server
====================================

Measured by ``{command}``. Every sample is in `servers.json <servers.json>`_, of which
``make figures`` makes this page.

| {about}

{table}

Medians of {runs} runs, each with a server of its own: how much the resident set grows when
browsers come, divided by their number. Others have come before them, for what is needed once and
not once each. The kernel's own memory for a socket is not in it. Who is *pushed to*, by WebSocket,
holds no request; a *long poll* or an *event stream* that waits holds one, and with it a greenlet or
a native thread.
"""


def _page(raw: Raw) -> str:
    found = raw.json("servers")
    return _PAGE.format(
        command=found["command"],
        about=described(found).replace("\n", "\n| "),
        table=as_table(found["servers"]),
        runs=min(len(runs) for kinds in found["servers"].values() for runs in kinds.values()),
    )


PART = Part(
    pages={"docs/results/servers.rst": _page},
    numbers={
        "memory per greenlet": _held(*GREENLETS),
        "memory per thread": _held(*THREADS),
        "most per socket pushed to": _most_pushed_to,
        "uwsgi gevent memory": _pushed_to("uwsgi gevent"),
        "uwsgi threads memory": _pushed_to("uwsgi threads"),
        "uwsgi measured with": _versions,
    },
)
