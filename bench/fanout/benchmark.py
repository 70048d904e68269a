"""Measure what thousands of subscribers cost: `python -m bench.fanout`.

Runs serve.py with N open WebSockets, and in turns with it a loop of send() in C, the floor: CPU
per notification, memory per socket, CPU per handshake, the time to the last subscriber; then GET
/data and the long poll, with both dispatches. `--other-servers` puts others to the same test, in
the same run.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from bench.clients.http import WrongResponse
from bench.command_line import listed, other_servers_option, run, separate, update_docs_option
from bench.environment import about
from bench.fanout.experiments import Figure, Subject, most, push, requests, streams
from bench.fanout.floor import floor
from bench.fanout.report import BY_FLASK, OURS, Report
from bench.fanout.servers import OTHER_SERVERS, Unavailable, install
from bench.processes import NotRunning
from bench.results import PUBLISHED

COMMAND = "python -m bench.fanout"

_SERVE = [sys.executable, "serve.py", "--port", "0", "--far", "none", "--source", "http"]
PUSHLAB = Subject(OURS, _SERVE)
PUSHLAB_BY_FLASK = Subject(BY_FLASK, [*_SERVE, "--no-direct"])


def measure(
    clients: Sequence[int],
    *,
    rounds: int,
    long_polls: int,
    max_sockets: int = 0,
    names: Sequence[str] = (),
    command: str = COMMAND,
) -> Report:
    """Measure our server, and others.

    The command is the one that the report names. Another server that cannot be installed, or that
    fails, is not measured any more.
    """
    figures: list[Figure] = []
    others: list[Subject] = []
    unavailable: dict[str, str] = {}

    def attempt(what: str, experiment: Callable[[Subject], list[Figure]], subject: Subject) -> None:
        click.echo(f"{subject.name}: {what}", err=True)
        try:
            figures.extend(experiment(subject))
        except (WrongResponse, NotRunning, OSError) as error:
            if subject not in others:
                raise
            unavailable[subject.name] = f"{what}: {error}"
            others.remove(subject)

    for server in (one for one in OTHER_SERVERS if {one.name, "all"}.intersection(names)):
        click.echo(f"{server.name}: installed on demand", err=True)
        try:
            others.append(install(server))
        except Unavailable as reason:
            unavailable[server.name] = str(reason)
    versions = {name: version for one in others for name, version in one.versions.items()}
    with floor() as ground:
        for count in sorted(clients):
            pushing = partial(push, clients=count, floor=ground, rounds=rounds)
            for subject in (PUSHLAB, *others):
                attempt(f"{count:,} WebSockets", pushing, subject)
    with floor() as ground:  # another one, as it never has fewer subscribers again
        asking = partial(requests, clients=long_polls, floor=ground, rounds=rounds)
        for subject in (PUSHLAB, PUSHLAB_BY_FLASK, *(other for other in others if other.http)):
            attempt(f"GET /data, and {long_polls:,} long polls", asking, subject)
        streaming = partial(streams, clients=long_polls, floor=ground, rounds=rounds)
        attempt(f"{long_polls:,} event streams", streaming, PUSHLAB)
    if max_sockets:
        attempt(f"{max_sockets:,} WebSockets", partial(most, clients=max_sockets), PUSHLAB)
    is_pinned = sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1  # see on_core
    pinned = "server and load generator on a core each" if is_pinned else "on any core"
    circumstances = {"rounds": rounds, "floor": "C", "pinned": pinned}
    return Report(figures, unavailable, {"command": command, **about(**versions), **circumstances})


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--clients", type=listed(click.IntRange(1)), multiple=True, metavar="N",
    default=["1000,5000"], help="Open so many WebSockets (1000 5000).")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True, metavar="N",
    help="Rounds of server and floor.")  # fmt: skip
@click.option("--long-polls", "--waiting", type=click.IntRange(1), default=1000,
    show_default=True, metavar="N", help="Long polls that wait.")  # fmt: skip
@click.option("--max-sockets", "--most", type=click.IntRange(0), default=0, metavar="N",
    help="At last hold so many sockets, as 18000, and broadcast to all of them.")  # fmt: skip
@other_servers_option("Also measure other servers")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write every sample there.")  # fmt: skip
@update_docs_option("Write docs/results/fanout.json; `make figures` then renews the docs.")
@click.pass_context
def benchmark(
    context: click.Context,
    /,
    clients: Sequence[Sequence[int]],
    other_servers: Sequence[str],
    path: Path | None,
    *,
    update_docs: bool,
    **numbers: int,
) -> None:
    """Measure, print the tables, write the results."""
    every = [count for counts in clients for count in counts]
    report = measure(every, names=other_servers, command=context.obj, **numbers)
    print(report.text())
    paths = [path] if path else []
    if update_docs:
        paths.append(PUBLISHED / "fanout.json")
    for each in paths:
        each.write_text(report.as_json())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark with these arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = shlex.join([*COMMAND.split(), *arguments])
    parsed = separate(arguments, "--clients", "--other-servers", "--peers")
    run(benchmark, parsed, COMMAND, obj=command)
