"""Measure the memory per waiting browser: `python -m bench.memory`.

Starts each server anew for each figure. Some browsers come first, for what is needed once and not
once each; then many more, and what the resident memory grew by is divided by their number. The
kernel's own memory for a socket is not in it.
"""

from collections.abc import Sequence
from importlib.metadata import version

import click

from bench import command_line
from bench.fanout.subscribers import subscribers
from bench.processes import Process
from bench.report.tables import as_rst
from bench.servers import HOSTED, started
from bench.statistics import median

COMMAND = "python -m bench.memory"
#: By server and kind, bytes of each run.
Samples = dict[str, dict[str, list[float]]]
#: The servers whose memory differs: serve2.py is as serve.py.
SERVERS = ("serve.py", "servers/threads.py", *HOSTED)
#: Seconds in which a server must do nothing to count as idle.
IDLE_TIME = 0.3
#: Transports, browsers that come first, and then.
KINDS = {
    "pushed to": ("websocket", 200, 1000),
    "long poll": ("longpoll", 100, 400),
    "event stream": ("sse", 100, 400),
}
#: For servers that can hold fewer requests: browsers that come first, and then.
FEWER = {"uwsgi threads": (20, 70)}


def growth(server: Process, transport: str, *, first: int, more: int) -> float:
    """Return the bytes that each browser after the first costs.

    Raises WrongResponse unless all of them then receive a reading.
    """
    with subscribers(server.port, inner_port=server.inner_port) as those:
        those.broadcast()
        those.join(first, transport, carry=True)
        server.cpu(interval=IDLE_TIME)  # which waits until the server is idle
        before = server.memory()
        those.join(more, transport, carry=True)
        server.cpu(interval=IDLE_TIME)
        found = (server.memory() - before) / more
        those.broadcast()
        return found


def measure(servers: Sequence[str] = SERVERS, *, runs: int = 3) -> Samples:
    """Return bytes by server and kind, a sample per run."""
    found: Samples = {}
    for name in servers:
        click.echo(name, err=True)
        found[name] = {}
        for kind, (transport, first, more) in KINDS.items():
            if transport != "websocket":
                first, more = FEWER.get(name, (first, more))
            samples = found[name][kind] = []
            for _ in range(runs):
                with started(name) as server:
                    cost = growth(server, transport, first=first, more=more)
                samples.append(round(cost, 1))
    return found


def as_table(found: Samples) -> str:
    """Return the medians as a reStructuredText table."""
    rows = [("bytes for one browser", *KINDS)]
    for name, kinds in found.items():
        rows.append((name, *(f"{median(kinds[kind]):,.0f}" for kind in KINDS)))
    return as_rst(rows)


@click.command(help=(__doc__ or "").partition(":")[0])
@click.option(
    "--runs", type=click.IntRange(1), default=3, show_default=True, help="Of each server."
)
@command_line.update_docs_option("Write docs/results/servers.json.")
def main(runs: int, *, update_docs: bool) -> None:
    """Measure, print the table, write the results."""
    found = measure(runs=runs)
    print(as_table(found))
    if update_docs:
        versions = {name: version(name) for name in ("gunicorn", "uwsgi")}
        command_line.publish("servers", COMMAND, {"servers": found}, **versions)


if __name__ == "__main__":
    command_line.run(main, None, COMMAND)
