"""Measure every way of telling browsers side by side, and write a report: `python compare.py`.

Each way is verified first. Then a server each is told of changes, audiences of headless browsers
hear of them, and every sample is kept: when they knew, when they had it, what passed the sockets,
and what it cost the server. `--help` says what else can be measured.
"""

from lab import requirements_check as needed

needed.demand(comparison=True)

import shlex
import shutil
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import output
from bench.report import terminal
from bench.report import findings
from bench import cli
from bench.fanout import benchmark
from bench.environment import about
from bench.results import Results
from bench.runner import Failed, Run
from bench.cli import CannotMeasure, Options

#: Where the figures of the docs come from.
PUBLISHED = Path(__file__).resolve().parent / "docs" / "results"


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    options = cli.parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: keep what there is
    try:
        options.check()
        if options.other_servers is not None:
            return beside_other_servers(options)
        shared = options.target()
    except CannotMeasure as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    versions = {name: metadata.version(name) for name in ("rich", "matplotlib")}
    results = Results(
        command=shlex.join(["python", "compare.py", *options.arguments]),
        about=about(**versions),
        options=options.chosen,
    )
    progress = terminal.Progress(options.plan.seconds, Console(stderr=True))
    try:
        with progress, Run(results, progress, shared=shared) as run:
            options.plan.measure(run)
    except KeyboardInterrupt:
        results.interrupted = True
    except Failed as failure:
        results.failure = str(failure)
    return conclude(results, options)


def conclude(results: Results, options: Options) -> int:
    """Print and write what was found out; return the exit status."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # it takes a moment; a second one is impatience
        signal.signal(stop, signal.SIG_IGN)
    results.finish()
    study = options.plan.study
    sections = study.tables(results) if study and results.is_complete else ()
    written = output.write(results, options.output, sections, title=study.title if study else "")
    if options.update_docs and results.is_complete:
        publish(results, options.name, [path for path in written if path.suffix == ".svg"])
    console = Console(width=None if sys.stdout.isatty() else 100)
    if results.entries or not sections:
        console.print(terminal.figures(results))
    for section in sections:
        console.print(terminal.table(section))
    for sentence in findings.sentences(results):
        console.print(f"- {sentence}", highlight=False, markup=False)
    console.print(
        f"\nThe report: {options.output / 'report.html'}", highlight=False, soft_wrap=True
    )
    if results.failure:
        print(f"compare.py: {results.failure}", file=sys.stderr)
        return 1
    return 130 if results.interrupted else 0


def publish(results: Results, name: str, plots: list[Path]) -> None:
    """Put the raw results, and the comparison's plots, where the figures of the docs come from."""
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    (PUBLISHED / f"{name}.json").write_text(results.as_json())
    if name == "compare":
        (PUBLISHED / name).mkdir(exist_ok=True)
        for plot in plots:
            shutil.copy(plot, PUBLISHED / name)


def beside_other_servers(options: Options) -> int:
    """Run the fan-out benchmark, which puts other servers to the same test."""
    more: list[Any] = [
        "--other-servers",
        *(options.other_servers or ()),
        "--json",
        options.output / "fanout.json",
    ]
    if options.clients:
        more += ["--clients", *options.clients]
    if options.update_docs:
        more.append("--update-docs")
    try:
        benchmark.main([str(part) for part in more])
    except OSError as error:
        print(f"compare.py --other-servers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
