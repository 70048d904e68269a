"""Measure every transport side by side: `python compare.py`.

Each variant is verified first: it must deliver a known sequence without a gap. Then headless
browsers wait for changes, each variant with a server of its own, and every sample is kept: when a
browser was notified, when it had the data, the bytes at its socket, the server's CPU and memory.
`--help` lists what else can be measured.
"""

from lab import requirements_check

requirements_check.check("bench/requirements.txt")  # before the packages are imported

import shlex
import signal
import sys
from importlib import metadata

from rich.console import Console

from bench import cli, cluster, output
from bench.cli import CannotMeasure, Options
from bench.environment import about
from bench.fanout import benchmark
from bench.report import findings, terminal
from bench.results import Results
from bench.runner import Failed, Run


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    options = cli.parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # keep what there is, as with Ctrl-C
    try:
        options.check()
        if "other_servers" in options.chosen:
            measure_other_servers(options)
            return 0
        if "workers" in options.chosen:
            measure_workers(options)
            return 0
        results = measure(options)
    except CannotMeasure as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for number in (signal.SIGINT, signal.SIGTERM):  # writing the report takes a moment: finish it
        signal.signal(number, signal.SIG_IGN)
    report(results, options)
    if results.failure:
        print(f"compare.py: {results.failure}", file=sys.stderr)
        return 1
    return 130 if results.interrupted else 0


def measure(options: Options) -> Results:
    """Return what was measured, until the end or a failure.

    Raises CannotMeasure if the server at --url cannot be measured.
    """
    shared = options.target()
    results = Results(
        command=shlex.join(["python", "compare.py", *options.arguments]),
        about=about(**{name: metadata.version(name) for name in ("rich", "matplotlib")}),
        options=options.chosen,
    )
    progress = terminal.Progress(options.study.rounds, Console(stderr=True))
    try:
        with progress, Run(results, progress, shared=shared) as run:
            options.study.measure(run)
    except KeyboardInterrupt:
        results.interrupted = True
    except Failed as failure:
        results.failure = str(failure)
    results.finish()
    return results


def report(results: Results, options: Options) -> None:
    """Write the report, and print its tables and findings."""
    tables = options.study.tables(results) if results.is_complete else ()
    written = output.write(results, options.output, tables, title=options.study.title)
    if options.update_docs and results.is_complete:
        output.publish(results, options.study.name, written)
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    if results.entries or not tables:
        console.print(terminal.figures(results))
    for table in tables:
        console.print(terminal.table(table))
    for sentence in findings.sentences(results):
        console.print(f"- {sentence}", markup=False)
    console.print(f"\nThe report: {options.output / 'report.html'}", soft_wrap=True)


def measure_other_servers(options: Options) -> None:
    """Measure other servers by the fan-out benchmark."""
    more = ["--other-servers", *options.chosen["other_servers"]]
    more += ["--json", str(options.output / "fanout.json")]
    if "clients" in options.chosen:
        more += ["--clients", *map(str, options.chosen["clients"])]
    benchmark.main(more + ["--update-docs"] * options.update_docs)


def measure_workers(options: Options) -> None:
    """Measure what more processes bring, and what Redis costs."""
    more = ["--workers", ",".join(map(str, options.chosen["workers"]))]
    if "clients" in options.chosen:
        more += ["--clients", str(max(options.chosen["clients"]))]
    cluster.main(more + ["--update-docs"] * options.update_docs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
