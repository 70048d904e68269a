"""Measure what thousands of subscribers cost: `python -m bench.fanout`.

Runs serve.py with N open WebSockets, and in turns with it a loop of send() in C, the floor: CPU
per notification, memory per socket, CPU per handshake, the time to the last subscriber; then GET
/data and the long poll, with both dispatches. `--other-servers` puts others to the same test, in
the same run.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from bench.clients.http import WrongResponse
from bench.command_line import listed, run, separate
from bench.environment import about
from bench.fanout.experiments import Figure, Floor, Subject, held, push, requests, streams
from bench.fanout.floor import floor
from bench.fanout.report import BY_FLASK, OURS, Report
from bench.fanout.servers import OTHER_SERVERS, Unavailable, install
from bench.fanout.subscribers import subscribers
from bench.processes import ROOT, NotRunning, cores

RESULTS = ROOT / "docs" / "results"
COMMAND = "python -m bench.fanout"
#: Long polls that wait when a reading is published.
LONG_POLLS = 1000
ALL, OTHERS = "all", [server.name for server in OTHER_SERVERS]

_SERVE = [sys.executable, "serve.py", "--port", "0", "--far", "none", "--source", "http"]
PUSHLAB = Subject(OURS, _SERVE)
PUSHLAB_BY_FLASK = Subject(BY_FLASK, [*_SERVE, "--no-direct"])


class FanoutRun:
    """The figures so far, and the servers still measured."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.subjects = [PUSHLAB]
        self.versions: dict[str, str] = {}
        self.unavailable: dict[str, str] = {}

    def install(self, names: Sequence[str]) -> None:
        """Add the other servers of these names."""
        for server in (server for server in OTHER_SERVERS if server.name in names):
            _say(f"{server.name}: installed on demand")
            try:
                self.subjects.append(install(server))
                self.versions.update(self.subjects[-1].versions)
            except Unavailable as reason:
                self.unavailable[server.name] = str(reason)

    def attempt(
        self, what: str, experiment: Callable[[Subject], list[Figure]], subject: Subject
    ) -> None:
        """Measure this server; another that fails is out."""
        _say(f"{subject.name}: {what}")
        try:
            self.figures += experiment(subject)
        except (WrongResponse, NotRunning, OSError) as error:
            if subject not in self.subjects or subject is PUSHLAB:
                raise
            self.unavailable[subject.name] = f"{what}: {error}"
            self.subjects.remove(subject)


def measure(
    clients: Sequence[int],
    *,
    rounds: int,
    long_polls: int = LONG_POLLS,
    max_sockets: int = 0,
    names: Sequence[str] = (),
    command: str = COMMAND,
) -> Report:
    """Measure our server, and the other servers of these names.

    The command is the one that the report names.
    """
    fanout = FanoutRun()
    fanout.install(names)
    with running_floor() as (ground, language):
        for count in sorted(clients):
            pushing = partial(push, clients=count, floor=ground, rounds=rounds)
            for subject in tuple(fanout.subjects):
                fanout.attempt(f"{count:,} WebSockets", pushing, subject)
    with running_floor() as (ground, language):
        asking = partial(requests, long_polls=long_polls, floor=ground, rounds=rounds)
        others = [subject for subject in fanout.subjects[1:] if subject.http]
        for subject in (PUSHLAB, PUSHLAB_BY_FLASK, *others):
            fanout.attempt(f"GET /data, and {long_polls:,} long polls", asking, subject)
        streaming = partial(streams, clients=long_polls, floor=ground, rounds=rounds)
        fanout.attempt(f"{long_polls:,} event streams", streaming, PUSHLAB)
    if max_sockets:
        holding = partial(held, clients=max_sockets, rounds=10)
        fanout.attempt(f"{max_sockets:,} WebSockets", holding, PUSHLAB)
    pinned = "server and load generator on a core each" if cores() else "cores chosen by the system"
    about_it = {"command": command, **about(**fanout.versions), "rounds": rounds}
    return Report(
        fanout.figures, fanout.unavailable, {**about_it, "floor": language, "pinned": pinned}
    )


@contextmanager
def running_floor() -> Iterator[tuple[Floor, str]]:
    """Run a floor; yields it with its language."""
    with floor() as (process, language), subscribers(process.port, "floor") as those:
        yield Floor(process, those), language


def _say(progress: str) -> None:
    sys.stderr.write(progress + "\n")


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--clients", type=listed(click.IntRange(1)), multiple=True, metavar="N",
    default=[[1000, 5000]], help="Open so many WebSockets (1000 5000).")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True, metavar="N",
    help="Rounds of server and floor.")  # fmt: skip
@click.option("--long-polls", "--waiting", type=click.IntRange(1), default=LONG_POLLS,
    show_default=True, metavar="N", help="Long polls that wait.")  # fmt: skip
@click.option("--max-sockets", "--most", type=click.IntRange(0), default=0, metavar="N",
    help="At last hold so many sockets, as 18000, and broadcast to all of them.")  # fmt: skip
@click.option("--other-servers", "--peers", type=click.Choice([ALL, *OTHERS]), multiple=True,
    is_flag=False, flag_value=ALL, metavar="[NAME ...]",
    help=f"Also measure other servers: {', '.join(OTHERS)}. All of them unless named.")  # fmt: skip
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write every sample there.")  # fmt: skip
@click.option("--update-docs", "--write", is_flag=True,
    help="Write docs/results/fanout.json; `make figures` then renews the docs.")  # fmt: skip
@click.pass_context
def benchmark(
    context: click.Context,
    clients: Sequence[Sequence[int]],
    rounds: int,
    long_polls: int,
    max_sockets: int,
    other_servers: Sequence[str],
    path: Path | None,
    *,
    update_docs: bool,
) -> None:
    """Measure, print the tables, write the results."""
    try:
        report = measure(
            [count for counts in clients for count in counts],
            rounds=rounds,
            long_polls=long_polls,
            max_sockets=max_sockets,
            names=OTHERS if ALL in other_servers else other_servers,
            command=context.obj,
        )
    except (WrongResponse, NotRunning) as error:
        sys.exit(f"{COMMAND}: {error}")
    print(report.text())
    if path:
        path.write_text(report.as_json())
    if update_docs:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "fanout.json").write_text(report.as_json())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark with these arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = shlex.join([*COMMAND.split(), *arguments])
    parsed = separate(arguments, "--clients", "--other-servers", "--peers")
    run(benchmark, parsed, COMMAND, obj=command)
